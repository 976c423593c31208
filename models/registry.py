"""The methods that a plan can name: one line each, and the only list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from models.baseline import Baseline
from models.brier import Brier
from models.calibration import CalibrationSlope
from models.censoring_step import Censoring
from models.components import Components
from models.concordance import Concordance
from models.cox import Cox
from models.cox_stratified import CoxStratified
from models.cumulative_incidence import CumulativeIncidence
from models.event_grid import EventGrid
from models.hazard import Hazard
from models.hazard_lbfgs import HazardLbfgs
from models.held_out_calibration import HeldOutCalibration
from models.kaplan_meier import KaplanMeier
from models.logistic import logistic
from models.moments import Moments
from models.multinomial import Multinomial
from models.network import HazardNetwork
from models.outcome_scores import OutcomeScores, OutcomeSiteOnly, OutcomeSlope
from models.penalty_search import PenaltySearch
from models.population import Population
from models.private_baseline import PrivateBaseline
from models.private_grid import PrivateGrid
from models.private_hazard import PrivateHazard
from models.private_moments import PrivateMoments
from models.ranking import Ranking
from models.risk_groups import RiskGroups
from models.screening import Screening
from models.site_figures import SiteFigures
from models.site_only import SiteOnly
from models.step import Context, Step
from models.treatment_response import TreatmentResponse

METHODS: Mapping[str, Callable[[Context], Step]] = MappingProxyType(
    {
        "moments": Moments,
        "screening": Screening,
        "components": Components,
        "event_grid": EventGrid,
        "penalty_search": PenaltySearch,
        "hazard": Hazard,
        "hazard_lbfgs": HazardLbfgs,
        "hazard_network": HazardNetwork,
        "cox": Cox,
        "cox_stratified": CoxStratified,
        "baseline": Baseline,
        "private_moments": PrivateMoments,
        "private_grid": PrivateGrid,
        "private_hazard": PrivateHazard,
        "private_baseline": PrivateBaseline,
        "risk_groups": RiskGroups,
        "population": Population,
        "kaplan_meier": KaplanMeier,
        "concordance": Concordance,
        "censoring": Censoring,
        "ranking": Ranking,
        "held_out_calibration": HeldOutCalibration,
        "site_figures": SiteFigures,
        "site_only": SiteOnly,
        "brier": Brier,
        "calibration_slope": CalibrationSlope,
        "logistic": logistic,
        "multinomial": Multinomial,
        "outcome_scores": OutcomeScores,
        "outcome_site_only": OutcomeSiteOnly,
        "outcome_slope": OutcomeSlope,
        "cumulative_incidence": CumulativeIncidence,
        "treatment_response": TreatmentResponse,
    }
)
