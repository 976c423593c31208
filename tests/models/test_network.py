"""The late-fusion network: its gradient, its laws in a federation, and what it learns."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.concordance import harrell
from models.network import HazardNetwork
from models.network_shape import Shape
from models.step import Context, DivergedError
from schemas.cohort import Layer
from schemas.design import DesignColumn, LayerDesign
from tests.models.federation import cohort_of, run_step, split

SETTINGS = {
    "hidden": 4,
    "fusion": "late",
    "rounds": 40,
    "server": "adam",
    "rate": 0.05,
    "local_steps": 1,
    "local_rate": 0.1,
    "modality_dropout": 0.0,
    "norm": 1e6,
    "seed": 1,
}
EDGES = np.array([1.0, 2.0, 4.0, 8.0, 20.0])


def _cohort(n=200, seed=0):
    rng = np.random.default_rng(seed)
    clinical, rna = rng.standard_normal((n, 2)), rng.standard_normal((n, 3))
    log_hazard = 0.8 * clinical[:, 0] + 1.2 * (np.abs(rna[:, 0]) - 0.8)  # the second is no straight line
    time = rng.exponential(1 / (0.2 * np.exp(log_hazard)))
    censoring = rng.uniform(2, 20, n)
    cohort = cohort_of(clinical, np.minimum(time, censoring), time <= censoring)
    rna[rng.random(n) < 0.2] = np.nan
    return type(cohort)(
        **{
            **{name: getattr(cohort, name) for name in ("patient_ids", "time", "event", "entry")},
            "layers": {**cohort.layers, "rna": Layer(("g0", "g1", "g2"), rna)},
        }
    )


def _context(penalty=1.0, **network):
    design = (
        *(DesignColumn(f"x{j}", f"x{j}", "clinical") for j in range(2)),
        *(DesignColumn(f"rna:g{j}", f"g{j}", "rna") for j in range(3)),
    )
    settings = {"network": {**SETTINGS, **network}, "penalties": [penalty] * 5, "n_bins": 5}
    return Context(design, 5, (), settings, (LayerDesign("rna", ("g0", "g1", "g2")),))


def _inputs():
    return {
        "mean": np.zeros(5),
        "scale": np.ones(5),
        "rna_mean": np.zeros(3),
        "rna_scale": np.ones(3),
        "edges": EDGES,
        "n_intervals": np.array(5.0),
    }


COHORT = _cohort()
SITES = split(COHORT, np.arange(200) % 4)


def _fit(sites, context):
    return run_step(HazardNetwork(context), _inputs(), sites)


def _log_hazard(context, state, cohort):
    step = HazardNetwork(context)
    x = step._preparation.matrix(cohort, _inputs())
    shape = Shape.of(context)
    return shape.log_hazard(state["weights"], x, shape.present(cohort, ("rna",)))


def _c_index(cohort, score):
    concordant, tied, comparable = harrell(cohort.time, cohort.event, score, cohort.entry)
    return (concordant + tied / 2) / comparable


def test_the_update_of_one_step_is_the_slope_of_the_log_likelihood():
    context = _context()
    step = HazardNetwork(context)
    rng = np.random.default_rng(5)
    shape = Shape.of(context)
    sent = {
        **_inputs(),
        "alpha": np.full(5, -1.5),
        "weights": 0.3 * rng.standard_normal(shape.n_weights),
        "update_number": np.array(0.0),
    }
    update = step.local("update", sent, COHORT)["update"]

    def value(weights):
        return float(step.local("baseline", {**sent, "weights": weights}, COHORT)["log_likelihood"])

    for j in rng.choice(shape.n_weights, 12, replace=False):
        nudge = np.zeros(shape.n_weights)
        nudge[j] = 1e-5
        slope = (value(sent["weights"] + nudge) - value(sent["weights"] - nudge)) / 2e-5
        assert update[j] == pytest.approx(slope, abs=1e-4)


def test_the_federation_trains_what_one_table_trains():
    context = _context()
    apart, pooled = _fit(SITES, context), _fit([COHORT], context)
    np.testing.assert_allclose(apart["weights"], pooled["weights"], atol=1e-9)


def test_the_order_of_the_sites_does_not_matter():
    context = _context(modality_dropout=0.3)
    first, second = _fit(SITES, context), _fit(SITES[::-1], context)
    np.testing.assert_allclose(first["weights"], second["weights"], atol=1e-9)


@pytest.mark.parametrize("change", [{}, {"modality_dropout": 0.3}, {"fusion": "early"}, {"local_steps": 3}])
def test_it_learns_what_is_no_straight_line(change):
    context = _context(rounds=150, **change)
    many = _cohort(600, seed=3)
    state = _fit(split(many, np.arange(600) % 4), context)
    unseen = _cohort(600, seed=9)
    # No linear model can see the second term, so the true clinical score is the best that one can be.
    best_line = _c_index(unseen, unseen.matrix(["x0"])[:, 0])
    assert _c_index(unseen, _log_hazard(context, state, unseen)) > best_line + 0.02


def test_a_missing_layer_counts_as_the_mean():
    context = _context()
    state = _fit(SITES, context)
    shape = Shape.of(context)
    x = np.zeros((2, 5))
    x[:, :2] = 1.0
    present = np.array([[1.0, 1.0], [1.0, 0.0]])
    with_mean, without = shape.log_hazard(state["weights"], x, present)
    assert with_mean == pytest.approx(without)


def test_a_layer_switched_off_moves_nothing():
    context = _context()
    off = Context(context.design, 5, (), {**context.settings, "penalties": [1.0, 1.0, 1e9, 1e9, 1e9]}, context.layers)
    state = _fit(SITES, off)
    mixed = [site.take(np.argsort(-site.time)) for site in SITES]
    assert np.isfinite(state["weights"]).all()
    start = Shape.of(off).first_weights(1)
    _, rna = Shape.of(off).parts(state["weights"])
    np.testing.assert_array_equal(rna, Shape.of(off).parts(start)[1])
    np.testing.assert_allclose(_fit(mixed, off)["weights"], state["weights"], atol=1e-9)


def test_training_that_diverges_says_so():
    with pytest.raises(DivergedError, match="lower `rate`"):
        _fit(SITES, _context(server="averaging", rate=10.0, penalty=0.0))


def test_every_share_of_a_site_is_bounded_by_the_plan():
    update = next(part for part in HazardNetwork(_context(norm=7.0)).parts() if part.name == "update")
    assert update.norm == 7.0


def test_a_site_imports_nothing_in_a_round_that_it_has_not_imported_before():
    """Every answer is computed in a forked process, which forgets what it imported: half a second a round."""
    code = (
        "import sys\n"
        "import numpy as np\n"
        "from models.network import _pulled_back, load_torch\n"
        "from models.network_shape import Shape\n"
        "from tests.models.test_network import _context\n"
        "load_torch()\n"
        "before = set(sys.modules)\n"
        "shape = Shape.of(_context())\n"
        "_pulled_back(shape, shape.first_weights(1), np.ones((3, 5)), np.ones((3, 2)), np.ones(3))\n"
        "print(sorted(set(sys.modules) - before))\n"
    )
    root = Path(__file__).parents[2]
    ran = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
