"""The estimators written slowly and obviously: loops over patients and risk sets, straight from the formulas."""

from collections.abc import Callable, Iterator

import numpy as np
from scipy import optimize

from models.step import Floats


def intervals_at_risk(
    time: float, event: bool, entry: float, edges: Floats, *, exact: bool
) -> tuple[list[int], int | None]:
    """The intervals in which one patient is at risk, and the one with their event."""
    at_risk, event_in = [], None
    for k, upper in enumerate(edges):
        lower = 0.0 if k == 0 else edges[k - 1]
        event_here = event and lower < time <= upper
        entered = entry < upper if exact else entry <= lower
        if entered and (event_here or time >= upper):
            at_risk.append(k)
            if event_here:
                event_in = k
    return at_risk, event_in


def person_period(
    time: Floats, event: Floats, entry: Floats, edges: Floats, *, exact: bool
) -> Iterator[tuple[int, int, int]]:
    """(patient, interval, 1 if the event is there) for each patient and interval at risk."""
    for i in range(len(time)):
        at_risk, event_in = intervals_at_risk(time[i], bool(event[i]), entry[i], edges, exact=exact)
        for k in at_risk:
            yield i, k, int(k == event_in)


def grouped_log_likelihood(rows: list[tuple[int, int, int]], x: Floats, alpha: Floats, beta: Floats) -> float:
    """Sum of log Pr(survive) or log Pr(event) over the person-period table."""
    total = 0.0
    for i, k, y in rows:
        u = np.exp(alpha[k] + x[i] @ beta)
        total += np.log(-np.expm1(-u)) if y else -u
    return float(total)


def partial_log_likelihood(
    time: Floats, event: Floats, entry: Floats, x: Floats, beta: Floats, ties: str, strata: Floats | None = None
) -> float:
    """Cox's partial log-likelihood, death by death (Breslow 1974; Efron 1977)."""
    strata = np.zeros(len(time)) if strata is None else strata
    hazard = np.exp(x @ beta)
    total = 0.0
    for s in np.unique(strata):
        for t in np.unique(time[(strata == s) & (event == 1)]):
            at_risk = (strata == s) & (entry < t) & (time >= t)
            dead = at_risk & (time == t) & (event == 1)
            for r in range(dead.sum()):
                share = r / dead.sum() if ties == "efron" else 0.0
                total -= np.log(hazard[at_risk].sum() - share * hazard[dead].sum())
            total += (x[dead] @ beta).sum()
    return float(total)


def maximum(function: Callable[[Floats], float], start: Floats) -> Floats:
    """Where `function` is largest, by a general optimiser that knows no derivatives."""
    found = optimize.minimize(lambda v: -function(v), start, method="BFGS", options={"gtol": 1e-7, "maxiter": 5000})
    return np.asarray(found.x)


def slopes(function: Callable[[Floats], float], at: Floats, h: float = 1e-5) -> Floats:
    """Central differences of a scalar function."""
    steps = np.eye(at.size) * h
    return np.array([(function(at + e) - function(at - e)) / (2 * h) for e in steps])


def curvatures(function: Callable[[Floats], float], at: Floats, h: float = 1e-3) -> Floats:
    """Minus the second derivatives of a scalar function, by central differences of fourth order."""

    def gradient(v: Floats) -> Floats:
        return (8 * (slopes(function, v, h)) - 2 * slopes(function, v, 2 * h)) / 6

    steps = np.eye(at.size) * h
    rows = [
        (8 * (gradient(at + e) - gradient(at - e)) - (gradient(at + 2 * e) - gradient(at - 2 * e))) / (12 * h)
        for e in steps
    ]
    return -np.array(rows)
