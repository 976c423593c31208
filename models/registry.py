"""The methods that a plan can name: one line each, and the only list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from models.baseline import Baseline
from models.cox import Cox
from models.cox_stratified import CoxStratified
from models.event_grid import EventGrid
from models.hazard import Hazard
from models.moments import Moments
from models.step import Context, Step

METHODS: Mapping[str, Callable[[Context], Step]] = MappingProxyType(
    {
        "moments": Moments,
        "event_grid": EventGrid,
        "hazard": Hazard,
        "cox": Cox,
        "cox_stratified": CoxStratified,
        "baseline": Baseline,
    }
)
