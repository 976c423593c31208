"""What a site may be asked: whether the hub's parameters can belong to an honest fit. Pure, no IO.

The sums that leave a site are harmless at ordinary coefficients and not at chosen ones: at log hazards that are far
apart a sum holds a single patient, even through a secure sum over sites (`docs/attacks.md`, attack 3). So beyond the
gate's form, finiteness and bounds (`privacy.gate.admit`, which runs first) this holds that

- what comes from an earlier step (means, units, grid, a fitted model) is the same in every round of the run, and
  means and units lie within the dictionary's ranges;
- coefficients, per standard deviation, are no longer than `Limits.norm`, nor in the site's own units than
  `Limits.site_norm` (a tiny `scale` would make small numbers large), and at most `Limits.step` from the last that
  were answered;
- of wide layers, bases, units and loadings are those of an honest run (`privacy.inbound_layers`), and coefficients of
  components are measured by the spread of the site's own scores;
- a fit is asked at no more than `Limits.points` different points (coefficients and baseline hazards): m patients that
  leave in one interval can be solved for from about m + 1 of them, each perfectly ordinary (attack 9);
- the sums over risk sets that the hub returns for Cox's weights are not below the site's own, and what they hold
  beyond it falls over time, as that of real patients does.

`judge` returns what to remember or why not; `learned` adds what the site itself released. Both belong on the disk
with the answer (`Seen.encode`). Nothing here proves that the hub computed the question from the sum: it bounds what
a hub that did not can ask.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from privacy.inbound_layers import (
    Columns,
    array_holds,
    bases_hold,
    columns_of,
    feature_moments,
    layers_of,
    lengths,
    released_sums,
    score_moments,
    squared_lengths,
)
from privacy.inbound_network import WeightLimits, allowed_points, is_network, weights_hold
from schemas.codes import Code
from schemas.design import DesignColumn, design_columns
from schemas.messages import RoundRequest
from schemas.plan import PartSpec, Plan, PlanStep

Floats = NDArray[np.float64]
Arrays = Mapping[str, Floats]

_RISK_SETS = ("events", "s0", "d0")
_LARGEST_KEPT = 4096
_ASKED = "asked"  # which folds a round of a folded step asks; the others stand idle (`models.folded`)


@dataclass(frozen=True)
class Limits:
    """How far an honest fit goes; the figures behind the defaults are in `docs/attacks.md`.

    Attributes:
        norm: Length of the log hazard ratios per standard deviation, as the hub says what that is.
        site_norm: The same per standard deviation of the site's own patients.
        step: Length of the way from the last ones that were answered.
        points: Different points at which one fit may be asked, over all runs of a plan.
        log_baseline: Smallest and largest log baseline hazard; the ends close an interval (`models.hazard`).
        rounding: Share of a sum that adding in another order, or in fixed point, may change.
        weights: Of a network, instead of lengths.
    """

    norm: float = 3.0
    site_norm: float = 4.5
    step: float = 3.0
    points: int = 12
    log_baseline: tuple[float, float] = (-50.0, 20.0)
    rounding: float = 1e-6
    weights: WeightLimits = field(default_factory=WeightLimits)


@dataclass(frozen=True)
class Seen:
    """What a site remembers of the answered rounds of a run.

    Attributes:
        given: ``step.array`` of an earlier step -> as first sent.
        searched: ``step.array`` of a fit -> as last sent; one row a fold where the step is folded.
        own: ``step.array`` -> what this site released: its spread of the covariates, its sums over risk sets; and
            what follows from it, the spread of its scores.
        points: For each fit (and fold) the digests of the points at which it was asked. Keep them over all runs of
            a plan: an honest second run asks at the same ones.
    """

    given: Arrays = field(default_factory=dict)
    searched: Arrays = field(default_factory=dict)
    own: Arrays = field(default_factory=dict)
    points: Mapping[str, frozenset[str]] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the bytes to store."""
        kinds = {"given": self.given, "searched": self.searched, "own": self.own}
        arrays = {
            f"{kind}/{name}": np.asarray(array, dtype=np.float64, order="C")
            for kind, named in kinds.items()
            for name, array in sorted(named.items())
        }
        points = {name: sorted(digests) for name, digests in sorted(self.points.items())}
        return safetensors.numpy.save(arrays, metadata={"points": json.dumps(points)})

    @classmethod
    def decode(cls, content: bytes) -> Seen:
        """Return what `encode` wrote; our own file, not a message."""
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        points = json.loads(header["__metadata__"]["points"])
        named: dict[str, dict[str, Floats]] = {"given": {}, "searched": {}, "own": {}}
        for name, array in safetensors.numpy.load(content).items():
            kind, _, key = name.partition("/")
            named[kind][key] = array
        return cls(**named, points={name: frozenset(digests) for name, digests in points.items()})


def judge(request: RoundRequest, plan: Plan, seen: Seen, limits: Limits | None = None) -> Seen | Code:
    """Judge the parameters of a request that the gate has admitted and that was not answered before.

    Args:
        request: Admitted by `privacy.gate.admit`: its step, part and arrays are the plan's.
        plan: Of the run.
        seen: Of the run so far.
        limits: The site's own.

    Returns:
        What to remember once it is answered, or why it is refused: `REQUEST_CONTRADICTS`, `REQUEST_TOO_FAR` or
        `ROUNDS_EXHAUSTED`.
    """
    limits = limits or Limits()
    step = plan.by_name[request.step]
    part = step.part(request.part)
    if part.noise is not None:  # the guarantee of differential privacy holds whatever is asked
        return seen
    if not _given_hold(request.arrays, part, step, plan, seen, limits):
        return Code.REQUEST_CONTRADICTS
    if not _risk_sets_hold(request.arrays, part, step, plan, seen, limits):
        return Code.REQUEST_CONTRADICTS
    if not bases_hold(request.arrays, list(layers_of(plan)), _asked(request.arrays)):
        return Code.REQUEST_TOO_FAR
    seen = _with_moments(request.arrays, part, step, plan, seen)
    searches = searches_of(request.arrays, step)
    if not all(_search_holds(name, sent, part, step, plan, seen, limits) for name, sent in searches):
        return Code.REQUEST_TOO_FAR
    remembered = _remembered(request.arrays, part, step, seen)
    for name, points in remembered.points.items():
        if len(points) > allowed_points(plan, name.partition("/")[0], limits.points):
            return Code.ROUNDS_EXHAUSTED
    return remembered


def learned(seen: Seen, request: RoundRequest, summand: Arrays) -> Seen:
    """Return `seen` with what later questions are held to in the site's own released summand (in clear).

    Args:
        seen: As `judge` returned it.
        request: That was answered.
        summand: As it passed the gate, before any mask.
    """
    own: dict[str, Floats] = {}
    if {"n_observed", "total", "total_squares"} <= set(summand):
        own[f"{request.step}.spread"] = _spread(summand)
    own |= released_sums(request.step, summand)
    if "s0" in summand:
        for name in set(_RISK_SETS) & set(summand):
            key = f"{request.step}.{name}"
            own[key] = _where_asked(request.arrays, summand[name], seen.own.get(key))
    return replace(seen, own={**seen.own, **own})


def risk_sets_fault(sent: Arrays, own: Arrays, *, delayed: bool, rounding: float = Limits.rounding) -> bool:
    """Whether sums over risk sets that the hub returns cannot be a sum that holds the site's own.

    With S0 = own + others: the others' hazards at risk are not negative; without delayed entry they never rise, and
    fall at least by the others' deaths; the deaths' hazards and counts are not negative, and counts are whole.

    Args:
        sent: `events`, `s0` and, with Efron's ties, `d0`, each (..., K).
        own: The same of this site, at the same coefficients.
        delayed: Whether patients may enter late, so that more can be at risk later than earlier.
        rounding: Share of the largest sum that is rounding.
    """
    slack = rounding * (1 + float(np.max(np.abs(sent["s0"]), initial=0.0)))
    others = {name: sent[name] - own[name] for name in _RISK_SETS if name in sent and name in own}
    if any(bool((values < -slack).any()) for values in (others["s0"], others.get("d0", others["s0"]))):
        return True
    events = others["events"]
    if bool((events < -0.5).any()) or bool((np.abs(events - np.rint(events)) > 0.01).any()):
        return True
    if delayed:
        return False
    fall = -np.diff(others["s0"], axis=-1)
    dead = others["d0"][..., :-1] if "d0" in others else np.zeros_like(fall)
    return bool((fall < dead - 2 * slack).any())


# ---------------------------------------------------------------- what comes from earlier steps
def sources_of(part: PartSpec, step: PlanStep) -> dict[str, str]:
    """Return the arrays of a part that an earlier step made, with their ``step.array``."""
    names = {spec.name for spec in part.sends}
    own_sums = set(_RISK_SETS) if "s0" in names else set()  # Cox's weights take these from the step's own last sum
    return {name: source for name, source in step.inputs.items() if name in names - own_sums}


def _given_hold(sent: Arrays, part: PartSpec, step: PlanStep, plan: Plan, seen: Seen, limits: Limits) -> bool:
    for name, source in sources_of(part, step).items():
        known = seen.given.get(source)
        if known is not None:
            if not np.array_equal(known, _compact(sent[name]) if known.shape != sent[name].shape else sent[name]):
                return False
        elif not _is_plausible(name, sent, step, plan, seen, limits):
            return False
    return True


def _is_plausible(name: str, sent: Arrays, step: PlanStep, plan: Plan, seen: Seen, limits: Limits) -> bool:
    """Whether an array that is sent for the first time can be what that earlier step found."""
    source = step.inputs[name]
    if name == "mean":
        return _in_ranges(sent["mean"], plan, of_scale=False)
    if name == "scale":
        return _in_ranges(sent["scale"], plan, of_scale=True)
    if name == "beta":  # a fitted model: not far from where its fit was last asked
        last = seen.searched.get(source)
        if is_network(plan):
            return weights_hold(sent["beta"], last, _asked(sent), limits.weights)
        moments = _layer_moments(step, seen)
        return all(
            _is_near(own["beta"], seen.searched.get(f"{search}.beta"), plan, moments, limits)
            for search, own in searches_of(sent, plan.by_name[source.partition(".")[0]])
        )
    layer, _, array = name.rpartition("_")
    layers = layers_of(plan)
    if layer in layers and array in ("mean", "scale", "loadings"):
        basis = seen.searched.get(f"{source.partition('.')[0]}.{layer}_basis")
        return array_holds(layers[layer], array, sent[name], basis, plan)
    return True


def _is_near(beta: Floats, last: Floats | None, plan: Plan, moments: Arrays, limits: Limits) -> bool:
    """Whether coefficients are at most a step away from the last that were answered, if any were."""
    return last is None or bool((lengths(beta - last, columns_of(plan), moments) <= limits.step).all())


def _with_moments(sent: Arrays, part: PartSpec, step: PlanStep, plan: Plan, seen: Seen) -> Seen:
    """Return `seen` with the spread of this site's scores, from when loadings first come; the basis then goes."""
    sources, own, searched = sources_of(part, step), dict(seen.own), dict(seen.searched)
    for layer in layers_of(plan).values():
        source = sources.get(f"{layer.name}_loadings" if layer.n_components else f"{layer.name}_scale")
        if source is None or source in own:
            continue
        made_by = f"{source.partition('.')[0]}.{layer.name}"
        basis, gram = searched.pop(f"{made_by}_basis", None), own.pop(f"{made_by}_gram", None)
        sums = own.get(f"{_summed_in(source, plan)}.{layer.name}_sums")
        if basis is not None and gram is not None:
            own[source] = score_moments(sent[f"{layer.name}_loadings"], basis, gram)
        elif not layer.n_components and sums is not None:
            unit = sent[f"{layer.name}_scale"]
            # A feature that the site has corrected has a mean square of about 1 in whom it is known.
            known = np.where(unit > 0, sums[..., 0, :], 0.0)
            own[source] = known if layer.adjust else feature_moments(sums, sent[f"{layer.name}_mean"], unit)
    return replace(seen, own=own, searched=searched)


def _summed_in(source: str, plan: Plan) -> str:
    """Return the step that summed what a layer's scale is made of; a screening passes its input on."""
    name, _, array = source.partition(".")
    made = plan.by_name.get(name)
    passed_on = made.inputs.get(array) if made is not None else None
    return name if passed_on is None else passed_on.partition(".")[0]


def _layer_moments(step: PlanStep, seen: Seen) -> dict[str, Floats]:
    """Return layer -> what `_with_moments` found, for the layers of which this site has released anything."""
    found = {}
    for name, source in step.inputs.items():
        layer, _, array = name.rpartition("_")
        if array in ("loadings", "scale") and source in seen.own:
            found[layer] = seen.own[source]
    return found


def _in_ranges(values: Floats, plan: Plan, *, of_scale: bool) -> bool:
    """Whether means lie in the dictionary's ranges, or standard deviations are at most half of them (Popoviciu).

    Columns that stand for wide layers are not scaled again: their mean is 0 and their scale 1.
    """
    columns = design_columns(plan.study, plan.dictionary)
    n_covariates = columns_of(plan).n_covariates
    if not bool((values[..., n_covariates:] == float(of_scale)).all()):
        return False
    if not n_covariates:
        return True
    columns, values = columns[:n_covariates], values[..., :n_covariates]
    low, high = (np.array(end, dtype=np.float64) for end in zip(*(_range(plan, c) for c in columns), strict=True))
    if of_scale:
        return bool(((values > 0) & ((values <= (high - low) / 2 * (1 + 1e-9)) | (values == 1))).all())
    slack = 1e-9 * np.where(np.isfinite(high - low), high - low, 0.0)
    return bool(((values >= low - slack) & (values <= high + slack)).all())


def _range(plan: Plan, design_column: DesignColumn) -> tuple[float, float]:
    column = plan.dictionary.column(design_column.column)
    if design_column.code is not None or (column is not None and column.type == "boolean"):
        return 0.0, 1.0
    low = column.min if column is not None else None
    high = column.max if column is not None else None
    return (-np.inf if low is None else low), (np.inf if high is None else high)


# ---------------------------------------------------------------- what a fit is asked
def searches_of(sent: Arrays, step: PlanStep) -> list[tuple[str, Arrays]]:
    """Return the searches that a question belongs to, each by its name and with its own point.

    That is one, the step itself; a search for penalties fits several inner folds at once, each on a way of its own;
    an outcome of several values has coefficients for each of them but the first.
    """
    outcomes = step.settings.get("outcomes", ())
    if len(outcomes) > 2 and "beta" in sent:
        rows = np.split(sent["beta"], len(outcomes) - 1, axis=-1)
        return [(f"{step.name}/{value}", {**sent, "beta": row}) for value, row in enumerate(rows, start=1)]
    if step.method != "penalty_search":
        return [(step.name, sent)]
    folds = range(sent["beta"].shape[-2])
    return [
        (f"{step.name}/{fold}", {**sent, **{name: sent[name][..., fold, :] for name in ("alpha", "beta")}})
        for fold in folds
    ]


def _search_holds(
    search: str, sent: Arrays, part: PartSpec, step: PlanStep, plan: Plan, seen: Seen, limits: Limits
) -> bool:
    if "alpha" in sent:
        low, high = limits.log_baseline
        if not bool(((sent["alpha"] >= low) & (sent["alpha"] <= high)).all()):
            return False
    if is_network(plan):
        own = sent.get("weights")
        return own is None or weights_hold(
            own, seen.searched.get(f"{step.name}.weights"), _asked(sent), limits.weights
        )
    if "beta" not in sent:
        return True
    asked, columns = _asked(sent), columns_of(plan)
    beta = np.atleast_2d(sent["beta"])[asked]
    moments = {name: _where(own, asked) for name, own in _layer_moments(step, seen).items()}
    if not bool((lengths(beta, columns) <= limits.norm).all()):
        return False
    if not bool((_site_lengths(beta, sent, step, seen, columns, moments) <= limits.site_norm).all()):
        return False
    last = seen.searched.get(f"{search}.beta")
    if last is None or "beta" in sources_of(part, step):
        return True
    known = np.atleast_2d(last)[asked]
    return bool((lengths(beta - known, columns, moments) <= limits.step).all())


def _site_lengths(
    beta: Floats, sent: Arrays, step: PlanStep, seen: Seen, columns: Columns, moments: Arrays
) -> Floats:
    """Return the (F,) lengths of coefficients per standard deviation of this site's own patients."""
    squares = squared_lengths(beta, columns, moments, of_features=True)
    spread = seen.own.get(f"{step.inputs.get('scale', '').partition('.')[0]}.spread")
    if spread is not None and "scale" in sent:
        covariates = slice(0, columns.n_covariates)
        ratio = _where(np.atleast_2d(spread / sent["scale"][..., covariates]), _asked(sent))
        squares = squares + ((beta[:, covariates] * ratio) ** 2).sum(axis=-1)
    return np.sqrt(squares)


def _where(own: Floats, asked: NDArray[np.bool_]) -> Floats:
    """Return the folds of an array that are asked; an array without folds as it is."""
    return own[asked] if own.shape[0] == asked.size else own


def _remembered(sent: Arrays, part: PartSpec, step: PlanStep, seen: Seen) -> Seen:
    sources = sources_of(part, step)
    given = {source: _compact(sent[name]) for name, source in sources.items() if source not in seen.given}
    bases = {
        f"{step.name}.{name}": sent[name]
        for name in sent
        if name.endswith("_basis") and any(spec.name == name.removesuffix("basis") + "gram" for spec in part.releases)
    }
    remembered = replace(seen, given={**seen.given, **given}, searched={**seen.searched, **bases})
    if "weights" in sent:
        name = f"{step.name}.weights"
        kept = _where_asked(sent, sent["weights"], seen.searched.get(name))
        return replace(remembered, searched={**remembered.searched, name: kept})
    if "beta" not in sent or "beta" in sources:
        return remembered
    for search, own in searches_of(sent, step):
        remembered = _with_point(search, own, remembered)
    return remembered


def _with_point(search: str, sent: Arrays, seen: Seen) -> Seen:
    """Return `seen` with the point at which a search was asked."""
    name, asked = f"{search}.beta", _asked(sent)
    before = seen.searched.get(name, np.zeros_like(sent["beta"]))
    beta = np.where(asked[:, None], np.atleast_2d(sent["beta"]), np.atleast_2d(before)).reshape(sent["beta"].shape)
    points = dict(seen.points)
    for fold in np.flatnonzero(asked):
        key = f"{search}/{fold}"
        searched = [np.atleast_2d(sent[each])[fold] for each in ("alpha", "beta") if each in sent]
        digest = hashlib.sha256(np.concatenate(searched).tobytes()).hexdigest()
        points[key] = points.get(key, frozenset()) | {digest}
    return replace(seen, searched={**seen.searched, name: beta}, points=points)


def _risk_sets_hold(sent: Arrays, part: PartSpec, step: PlanStep, plan: Plan, seen: Seen, limits: Limits) -> bool:
    if "s0" not in sent:
        return True
    names = [spec.name for spec in part.sends if spec.name in _RISK_SETS]
    own = {name: seen.own[f"{step.name}.{name}"] for name in names if f"{step.name}.{name}" in seen.own}
    if set(own) != set(names):  # never asked for the sums that these should be
        return False
    last = seen.searched.get(f"{step.name}.beta")
    asked = _asked(sent)
    if last is None or not np.array_equal(np.atleast_2d(last)[asked], np.atleast_2d(sent["beta"])[asked]):
        return False
    returned = {name: np.atleast_2d(sent[name])[asked] for name in names}
    held = {name: np.atleast_2d(own[name])[asked] for name in names}
    delayed = plan.study.endpoint.entry is not None
    return not risk_sets_fault(returned, held, delayed=delayed, rounding=limits.rounding)


def _asked(sent: Arrays) -> NDArray[np.bool_]:
    """Return the (F,) folds that are asked; one where the step is not folded."""
    if _ASKED in sent:
        asked: NDArray[np.bool_] = sent[_ASKED] > 0.5
        return asked
    return np.ones(1, dtype=np.bool_)


def _where_asked(sent: Arrays, now: Floats, before: Floats | None) -> Floats:
    """Return the folds that were asked as they are now, the idle ones as they were."""
    if _ASKED not in sent or before is None:
        return now
    return np.where(_asked(sent).reshape(-1, *(1,) * (now.ndim - 1)), now, before)


def _compact(array: Floats) -> Floats:
    """Return a large array's digest in its place: what comes in every round need not be kept whole."""
    if array.size <= _LARGEST_KEPT:
        return array
    digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).digest()
    return np.frombuffer(digest, dtype=np.uint8).astype(np.float64)


def _spread(moments: Arrays) -> Floats:
    """Return the standard deviation of each covariate at this site, from the sums that it released."""
    n = np.maximum(moments["n_observed"], 1.0)
    offset = moments["total"] / n
    variance = moments["total_squares"] / n - offset**2
    return np.sqrt(np.maximum(variance, 0.0))
