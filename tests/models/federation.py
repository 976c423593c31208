"""Sites in memory: drives a step over several cohorts as the hub does, and holds every release to its plan."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.step import Arrays, Context, Floats, Step, combine, sent_arrays
from schemas.cohort import Cohort, Layer
from schemas.design import DesignColumn
from schemas.plan import ArraySpec


def run_step(
    step: Step,
    inputs: Arrays,
    cohorts: Sequence[Cohort],
    rounds: list[str] | None = None,
    leaving: int | None = None,
) -> Arrays:
    """Return the step's final state.

    Args:
        step: The step.
        inputs: Its inputs.
        cohorts: The sites.
        rounds: Collects the parts that were asked.
        leaving: The round (from 1 on) in which the first site does not answer, and the others are asked anew.
    """
    parts = {part.name: part for part in step.parts()}
    asked: list[str] = [] if rounds is None else rounds
    turn = step.begin(inputs)
    while turn.ask is not None:
        asked.append(turn.ask)
        if len(asked) == leaving:
            turn, cohorts = step.shrink(turn.ask, turn.state), cohorts[1:]
            assert turn.ask is not None
        part = parts[turn.ask]
        assert asked.count(part.name) <= part.times, f"{part.name} was asked more often than its plan allows"
        sent = sent_arrays(part, turn.state, inputs)
        assert_matches(part.sends, sent)
        terms = [step.local(part.name, sent, cohort) for cohort in cohorts]
        for term in terms:
            assert_matches(part.releases, term)
        turn = step.finish(part.name, turn.state, inputs, combine(terms))
        assert all(np.isfinite(array).all() for array in turn.state.values()), "a state must be finite"
    return turn.state


def assert_matches(specs: Sequence[ArraySpec], arrays: Arrays) -> None:
    """What a site's gate checks: exactly these arrays, shapes, float64, finite, within bounds."""
    assert set(arrays) == {spec.name for spec in specs}
    for spec in specs:
        array = np.asarray(arrays[spec.name])
        assert array.shape == spec.shape, spec.name
        assert array.dtype == np.float64, spec.name
        assert np.isfinite(array).all(), spec.name
        assert (np.abs(array) <= spec.bound).all(), spec.name


def context(columns: Sequence[str], n_bins: int = 1, horizons: tuple[float, ...] = (), **settings: Any) -> Context:
    """A step's context with plain clinical columns."""
    design = tuple(DesignColumn(name, name, "clinical") for name in columns)
    return Context(design=design, n_bins=n_bins, horizons=horizons, settings=settings)


def cohort_of(
    x: Floats,
    time: Floats,
    event: Any,
    entry: Floats | None = None,
    columns: Sequence[str] | None = None,
    site: str = "",
) -> Cohort:
    """A cohort with one clinical layer; columns are x0, x1, … unless named."""
    x = np.asarray(x, dtype=np.float64)
    names = tuple(columns) if columns is not None else tuple(f"x{j}" for j in range(x.shape[1]))
    return Cohort(
        patient_ids=tuple(f"{site}{i}" for i in range(len(time))),
        time=np.asarray(time, dtype=np.float64),
        event=np.asarray(event, dtype=np.bool_),
        entry=np.zeros(len(time)) if entry is None else np.asarray(entry, dtype=np.float64),
        layers={"clinical": Layer(names, x)},
        site=site,
    )


def split(cohort: Cohort, labels: Sequence[Any]) -> list[Cohort]:
    """One cohort per label, in the order of the sorted labels."""
    array = np.asarray(labels)
    return [cohort.take(array == label) for label in np.unique(array)]


def fit(
    method: str,
    cohorts: Sequence[Cohort],
    columns: Sequence[str],
    *,
    bin_edges: Sequence[float] | None = None,
    edges: Floats | None = None,
    min_events: int = 1,
    standardise: bool = True,
    rounds: list[str] | None = None,
    centres: Sequence[float] | None = None,
    **settings: Any,
) -> dict[str, Floats]:
    """Moments, grid and one fit; without `bin_edges` or `edges` on the exact event times of all sites.

    Args:
        bin_edges: Bins from which the common grid is made.
        edges: The common grid itself, of merged intervals.

    Returns:
        The state of the fit, with `mean`, `scale`, `edges` and `n_intervals` of the steps before it.
    """
    from models.registry import METHODS

    exact = bin_edges is None and edges is None
    if bin_edges is None:
        bin_edges = [float(t) for t in np.unique(np.concatenate([c.time[c.event] for c in cohorts]))]
    n_bins = len(bin_edges) if edges is None else len(edges)
    centred: Mapping[str, Any] = {} if centres is None else {"centres": list(centres)}
    moments = run_step(METHODS["moments"](context(columns, standardise=standardise, **centred)), {}, cohorts)
    if edges is None:
        grid_settings = {"bin_edges": list(bin_edges), "min_events": min_events, "exact": exact}
        grid = run_step(METHODS["event_grid"](context(columns, n_bins, **grid_settings)), {}, cohorts)
    else:
        grid = {"edges": edges, "n_intervals": np.array(float(n_bins))}
    inputs = {
        "mean": moments["mean"],
        "scale": moments["scale"],
        "edges": grid["edges"],
        "n_intervals": grid["n_intervals"],
    }
    step = METHODS[method](context(columns, n_bins, **{"exact": exact, **settings}))
    return {**inputs, **run_step(step, inputs, cohorts, rounds)}
