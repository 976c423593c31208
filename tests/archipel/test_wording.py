import math

import pytest

from archipel import wording
from schemas.result import CIndex, CovariateFacts, Difference
from tests.archipel.results import changed, federation_result, simulated_result


def test_hazard_ratios_are_wald_intervals_per_unit_and_per_standard_deviation() -> None:
    row = next(row for row in wording.hazard_ratios(federation_result()) if row.name == "age_years")
    assert row.per_unit is not None
    assert row.per_sd is not None
    assert row.per_unit.value == pytest.approx(math.exp(-0.0741))
    assert row.per_unit.lower == pytest.approx(math.exp(-0.0741 - 1.959963984540054 * 0.0398))
    assert row.per_sd.upper == pytest.approx(math.exp(9.844 * (-0.0741 + 1.959963984540054 * 0.0398)))
    assert (row.label, row.contrast) == ("age", "per year")


def test_a_column_without_spread_has_no_interval() -> None:
    result = federation_result()
    flat = changed(
        result,
        standard_errors=result.standard_errors | {"steroids": None},
        reasons={"standard_errors.steroids": "No patient takes steroids."},
    )
    row = next(row for row in wording.hazard_ratios(flat) if row.name == "steroids")
    assert (row.per_unit, row.per_sd, row.z) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("name", "label", "contrast"),
    [
        ("treatment[rIFN-g]", "treatment", "rIFN-g vs placebo"),
        ("steroids", "steroids", "yes vs no"),
        ("height_cm", "height", "per cm"),
        ("prophylactic_antibiotics", "prophylactic antibiotics", "yes vs no"),
    ],
)
def test_covariates_are_named_for_people(name: str, label: str, contrast: str) -> None:
    row = next(row for row in wording.hazard_ratios(federation_result()) if row.name == name)
    assert (row.label, row.contrast) == (label, contrast)


def test_components_of_a_layer_are_told_apart() -> None:
    component = CovariateFacts(
        name="rna 2", column="rna", layer="rna", type="number", mean=0.0, standard_deviation=1.0
    )
    assert wording.covariate_label(component) == "rna 2"


def test_the_answer_says_what_was_found() -> None:
    answer = wording.answer(simulated_result())
    assert "Of about 130 patients at 5 sites, about 45 had the event (first serious infection)" in answer
    assert "62 of 100 comparable pairs" in answer
    assert "(C-index 0.62 ± 0.09, 10 held-out parts)" in answer
    assert "each site trains alone, 55." in answer
    assert "treatment (rIFN-g vs placebo), hazard ratio 0.32 (95 % interval 0.16–0.63)" in answer
    assert "effect" not in answer


def test_the_answer_stays_true_with_less_to_say() -> None:
    result = federation_result()
    silent = changed(result, evaluation={}, evaluation_kind="The study asks for none.")
    assert "C-index" not in wording.answer(silent)
    unclear = changed(result, standard_errors=dict.fromkeys(result.standard_errors, 9.0))
    assert "No single covariate has a 95 % interval" in wording.answer(unclear)


def test_only_sites_that_stayed_are_counted() -> None:
    result = federation_result()
    sites = [site.model_dump() for site in result.sites]
    sites[0] |= {"status": "dropped", "reason": "It did not answer in round 3."}
    assert wording.took_part(changed(result, sites=sites)) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.3163, "0.32"),
        (0.0421, "0.042"),
        (12.14, "12.1"),
        (431.2, "431"),
        (1e-5, "1.0e-05"),
        (0.0, "0"),
        (4e9, "4.0e+09"),
    ],
)
def test_ratios_show_what_matters(value: float, text: str) -> None:
    assert wording.ratio(value) == text


@pytest.mark.parametrize(("n", "text"), [(12, "12 B"), (1500, "1.5 kB"), (1_329_880, "1.33 MB"), (2.5e9, "2.5 GB")])
def test_sizes(n: float, text: str) -> None:
    assert wording.size(n) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0123, "12 ms"),
        (0.0996, "0.1 s"),
        (8.41, "8.4 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (7300, "2 h 1 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert wording.duration(seconds) == text


def test_a_missing_number_is_a_dash() -> None:
    assert wording.number(None) == "–"
    assert wording.number(-0.5, 1) == "−0.5"
    assert wording.spread(CIndex(mean=0.61, sd=None, per_fold=(0.61,))) == "0.610"


def test_the_penalty_is_said_in_words() -> None:
    result = federation_result()
    assert wording.penalty(result) == "ridge, λ = 1 on the standardised scale"
    assert wording.penalty(changed(result, penalty=0.0)) == "none"
    layers = changed(result, penalty={"clinical": 0.0, "rna": 30.0}, standardise=False)
    assert wording.penalty(layers) == "ridge, λ = rna 30 on the original scale"
    assert wording.is_penalised(layers)
    assert not wording.is_penalised(changed(result, penalty=0.0))


def test_times_and_shapes() -> None:
    assert wording.at_time(1, "day") == "1 day"
    assert wording.at_time(180, "days") == "180 days"
    assert wording.shape(()) == "1 number"
    assert wording.shape((72, 72)) == "72 × 72"


def test_a_c_index_over_a_few_dozen_pairs_is_not_given_as_a_judgement() -> None:
    result = simulated_result()
    few = {name: scores.model_copy(update={"comparable_pairs": 54}) for name, scores in result.evaluation.items()}
    shown = result.model_copy(update={"evaluation": few})
    assert "only 54 comparable pairs" in wording.answer(shown)
    assert "of 100 comparable pairs" not in wording.answer(shown)
    assert wording.concordance(few["federated"]).endswith("(only 54 pairs)")
    assert "pairs)" not in wording.concordance(result.evaluation["federated"])


def test_a_layer_that_the_search_left_out_is_said_to_be() -> None:
    chosen = changed(simulated_result(), penalty={"clinical": 10.0, "rna": 1e9})
    assert wording.penalty(chosen) == "ridge, λ = clinical 10, rna left out on the standardised scale"


def test_a_comparison_of_models_is_said_with_its_interval() -> None:
    known = Difference(first="federated", second="site_only", c_index=0.1, lower=0.05, upper=0.15, folds=10)
    single = Difference(first="new_site", second="new_site_clinical", c_index=-0.02, lower=None, upper=None, folds=1)
    result = changed(simulated_result(), differences=(known, single))
    assert wording.differences(result) == [
        "All sites together against each site alone: "
        "C +0.100 (95 % interval +0.050 to +0.150, paired over 10 folds).",
        "At a site left out against left out, clinical alone: C -0.020 on one of the sites.",
    ]
