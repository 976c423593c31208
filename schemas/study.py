"""The study: a question, its endpoint, who takes part, the model, its evaluation, and what may leave a site.

A study is a TOML file that a data scientist writes. It says nothing about one site's files and nothing about
how to compute; `models.compile` turns it, with its dictionary, into the plan that a site approves.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from schemas.dictionary import CLINICAL, Dictionary, LayerName, Name, load_dictionary
from schemas.endpoint import Endpoint, endpoint_faults
from schemas.errors import Fault, FaultsError
from schemas.toml_source import TomlSource

MAX_TIME_BINS = 64
MIN_PATIENTS_FLOOR = 10
MIN_EVENTS_FLOOR = 5

Method = Literal["hazard", "cox", "cox-stratified", "hazard-network", "logistic", "multinomial"]
Adjust = Literal["", "site"]
MAX_COMPONENTS = 100
Penalty = Annotated[float, Field(ge=0, le=1e9)]
_STRICT = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Criterion(BaseModel):
    """A condition on one column of the clinical table: ``age_years >= 18``."""

    model_config = _STRICT

    column: Name
    op: Literal["==", "!=", "<", "<=", ">", ">="]
    value: float | bool | str


class Eligibility(BaseModel):
    """Who is in the cohort.

    Attributes:
        criteria: All must hold; a patient whose cell is empty does not meet the criterion.
        complete_cases: Leave out patients with an empty covariate, instead of imputing its mean.
    """

    model_config = _STRICT

    criteria: tuple[Criterion, ...] = ()
    complete_cases: bool = False


class Network(BaseModel):
    """The late-fusion network of `hazard-network` (docs/study-file.md).

    Attributes:
        hidden: Width of the hidden layer of each layer's encoder.
        fusion: ``late`` (an encoder per layer, their log hazards added) or ``early`` (one encoder for all).
        rounds: Updates; the round cap is what keeps a network from learning its patients by heart.
        server: What the hub does with the summed update.
        rate: Length of the hub's step.
        local_steps: Steps that a site takes on its own before it answers; with 1 the sum is the exact gradient.
        local_rate: Length of these.
        modality_dropout: Share of each patient's layers that a round leaves out at random.
        norm: Largest norm of one site's update, summed over its patients; what is longer is shortened at the site.
        seed: Of the first weights and of the dropout.
    """

    model_config = _STRICT

    hidden: Annotated[int, Field(ge=1, le=512)] = 16
    fusion: Literal["late", "early"] = "late"
    rounds: Annotated[int, Field(ge=1, le=900)] = 50
    server: Literal["averaging", "momentum", "adam"] = "adam"
    rate: Annotated[float, Field(gt=0, le=10)] = 0.01
    local_steps: Annotated[int, Field(ge=1, le=100)] = 1
    local_rate: Annotated[float, Field(gt=0, le=10)] = 0.1
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    norm: Annotated[float, Field(gt=0, le=1e6)] = 1000.0
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0


class Model(BaseModel):
    """What is fitted.

    Attributes:
        method: ``hazard`` (grouped proportional hazards), ``cox``, ``cox-stratified`` (by site), ``hazard-network``
            (a late-fusion network on the same likelihood as ``hazard``), ``logistic`` or ``multinomial``.
        layers: The wide layers of the model, beside ``clinical``.
        covariates: Columns of the dictionary that are described one by one, of any layer.
        treatment: Which of them is the treatment (yes or no, or a category of two codes, the control first): the
            result then shows the predicted curve under each arm and their difference.
        interactions: Covariates that may change what the treatment does: each gets a column covariate x treatment.
        components: Principal components of each wide layer; 0 takes all of its features.
        screening: Features of each wide layer that one score test each lets through; 0 takes all of them.
        adjust: Wide layers of which each ``site`` corrects location and scale by itself (`models.adjustment`).
        missing_indicator: Whether the model also knows of whom a wide layer is missing: one covariate a layer.
        ties: How `cox` treats tied event times.
        penalty: The lambda of -1/2 lambda beta^2, one number or one per layer; on the standardised scale
            when `standardise` is true, else on the original scale. ``cv`` chooses one per layer by cross-validation.
        standardise: Divide every covariate by its standard deviation over all sites before penalising.
        network: Of `hazard-network`; None for the other methods.
    """

    model_config = _STRICT

    method: Method = "hazard"
    layers: Annotated[tuple[LayerName, ...], Field(min_length=1, max_length=50)] = (CLINICAL,)
    covariates: Annotated[tuple[Name, ...], Field(max_length=2000)] = ()
    treatment: Name | None = None
    interactions: Annotated[tuple[Name, ...], Field(max_length=50)] = ()
    components: Annotated[int, Field(ge=0, le=MAX_COMPONENTS)] = 20
    screening: Annotated[int, Field(ge=0, le=50_000)] = 0
    adjust: dict[LayerName, Literal["site"]] = {}
    missing_indicator: bool = False
    ties: Literal["breslow", "efron"] = "efron"
    penalty: Penalty | dict[str, Penalty] | Literal["cv"] = 0.0
    standardise: bool = True
    network: Network | None = None

    @field_validator("covariates", "layers", "interactions")
    @classmethod
    def _no_doubles(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"named twice: {', '.join(doubles)}")
        return names

    @model_validator(mode="after")
    def _not_empty(self) -> Model:
        if not self.covariates and not self.wide_layers:
            raise ValueError("name at least one of `covariates`, or a wide layer under `layers`")
        return self

    @model_validator(mode="after")
    def _network_of_its_method(self) -> Model:
        if self.network is not None and self.method != "hazard-network":
            raise ValueError(f"[model.network] belongs to the method hazard-network, not {self.method}")
        return self

    @model_validator(mode="after")
    def _treatment_is_a_covariate(self) -> Model:
        if self.treatment is None and self.interactions:
            raise ValueError("`interactions` are with a treatment: name its column under `treatment`")
        named = [name for name in (self.treatment, *self.interactions) if name is not None]
        missing = [name for name in named if name not in self.covariates]
        if missing:
            raise ValueError(f"not among the covariates: {', '.join(missing)}")
        if self.treatment in self.interactions:
            raise ValueError("the treatment has no interaction with itself")
        return self

    @property
    def wide_layers(self) -> tuple[str, ...]:
        """The layers of many alike columns, in the study's order."""
        return tuple(layer for layer in self.layers if layer != CLINICAL)

    @property
    def tunes_penalty(self) -> bool:
        """Whether cross-validation chooses the penalties."""
        return self.penalty == "cv"

    def penalty_of(self, layer: str) -> float:
        """Return the penalty of a covariate of `layer`; a layer the study does not name has none.

        Raises:
            ValueError: Where cross-validation chooses it.
        """
        if isinstance(self.penalty, str):
            raise ValueError("the penalties are chosen by cross-validation")
        return self.penalty.get(layer, 0.0) if isinstance(self.penalty, dict) else self.penalty


class FoldColumn(BaseModel):
    """Folds that a column of the clinical table deals out (in `simulate`)."""

    model_config = _STRICT

    column: Name


class Evaluation(BaseModel):
    """How the model is judged on patients that it has not seen.

    Attributes:
        folds: Number of folds (0: no evaluation), or the column that deals them out.
        repeats: How often the folds are dealt anew.
        group: Column whose equal values (relatives) share a fold.
    """

    model_config = _STRICT

    folds: Annotated[int, Field(ge=0, le=20)] | FoldColumn = 5
    repeats: Annotated[int, Field(ge=1, le=50)] = 1
    group: Name | None = None

    @field_validator("folds")
    @classmethod
    def _not_one(cls, folds: int | FoldColumn) -> int | FoldColumn:
        if folds == 1:
            raise ValueError("one fold leaves nothing to train on; write 0 for no evaluation, or 2 and more")
        return folds


class Differential(BaseModel):
    """Differential privacy of every patient (docs/differential-privacy.md): how much, and how it is spent.

    Two cohorts are adjacent when one has one patient more. The defaults but for `epsilon` were chosen on invented
    patients (experiments/dp_curve) and need no tuning; tuning them on real patients would cost privacy too.

    Attributes:
        epsilon: Of the whole study, everything that it releases together; above 10 it would promise nothing.
        delta: Likewise; well below one over the number of patients.
        clip: Largest norm of one patient's gradient.
        rounds: Steps of gradient descent.
        honest_sites: Sites whose noise suffices to protect everybody: those that do not collude with the hub.
            With 1 every site adds all of the noise itself; more needs the secure sum.
    """

    model_config = _STRICT

    epsilon: Annotated[float, Field(gt=0, le=10)]
    delta: Annotated[float, Field(gt=0, le=1e-3)] = 1e-5
    clip: Annotated[float, Field(gt=0, le=100)] = 2.0
    rounds: Annotated[int, Field(ge=1, le=500)] = 30
    honest_sites: Annotated[int, Field(ge=1, le=1000)] = 1


class Privacy(BaseModel):
    """The floors under every number that leaves a site.

    Attributes:
        min_patients: Patients behind a site's summand; a real site accepts 10 or more.
        min_events_per_interval: Events of the federation in each interval of the common time grid. 1 means
            exact event times, which `simulate` alone accepts.
        time_bins: Bins of the summed event histogram from which the grid is made.
        count_censored: Whether an interval also has none or at least as many patients who leave without an event, so
            that none of them shows alone between two sums. Costs intervals, and with few censored discrimination.
        secure_sum: Whether the hub sees sums over the sites alone, under masks. Needs three sites; with two, whoever
            knows one site's numbers knows the other's, so it has to be switched off in words, here and at both sites.
        differential: Noise that hides every patient; without it there is none.
    """

    model_config = _STRICT

    min_patients: Annotated[int, Field(ge=1, le=1000)] = MIN_PATIENTS_FLOOR
    min_events_per_interval: Annotated[int, Field(ge=1, le=1000)] = MIN_EVENTS_FLOOR
    time_bins: Annotated[int, Field(ge=2, le=MAX_TIME_BINS)] = MAX_TIME_BINS
    count_censored: bool = False
    secure_sum: bool = True
    differential: Differential | None = None

    @property
    def exact_times(self) -> bool:
        """Whether the study asks for exact event times."""
        return self.min_events_per_interval == 1


class Study(BaseModel):
    """One question to the federation, complete enough to be approved.

    Attributes:
        deadline_s: How long the hub waits for the sites in one round.
        on_dropout: ``pause`` until a missing site is back, or ``continue`` without it (at most once a run,
            not below three sites; the hub could then infer the leaving site's sums).
        expires: Last day on which a site answers this study.
    """

    model_config = _STRICT

    kind: Literal["study"]
    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{1,59}$")]
    title: str = Field(default="", max_length=300)
    question: str = Field(default="", max_length=2000)
    dictionary: Annotated[str, Field(min_length=1, max_length=300)]
    purpose: str = Field(default="", max_length=2000)
    ethics_reference: str = Field(default="", max_length=300)
    contact: str = Field(default="", max_length=300)
    expires: datetime.date | None = None
    deadline_s: Annotated[float, Field(gt=0, le=86_400)] = 120.0
    on_dropout: Literal["pause", "continue"] = "pause"
    endpoint: Endpoint
    eligibility: Eligibility = Eligibility()
    model: Model
    evaluation: Evaluation = Evaluation()
    privacy: Privacy = Privacy()


_HEAD = {"kind": "study", "version": 1, "name": "name", "dictionary": "dictionary"}


def load_study(path: Path) -> tuple[Study, Dictionary]:
    """Read a study and the dictionary that it names (relative to the study's own folder).

    Raises:
        FaultsError: Naming every fault of both files at once, each with its line.
    """
    source = TomlSource(path)
    faults: list[Fault] = []
    study: Study | None = None
    dictionary: Dictionary | None = None
    try:
        study = source.parse(Study)
    except FaultsError as error:
        faults += error.faults
    named = source.data.get("dictionary")
    if isinstance(named, str) and named:
        try:
            dictionary = load_dictionary(path.parent / named)
        except FaultsError as error:
            faults += error.faults
    sound = study or source.parse_sound_part(Study, _HEAD)
    if sound is not None and dictionary is not None:
        told = {fault.where for fault in faults}  # what stands there was not read, so nothing follows from it
        faults += [fault for fault in study_faults(sound, dictionary, source) if fault.where not in told]
    if faults or study is None or dictionary is None:
        raise FaultsError(str(path), faults)
    return study, dictionary


def study_faults(study: Study, dictionary: Dictionary, source: TomlSource | None = None) -> list[Fault]:
    """Return what of `study` the dictionary contradicts: unknown columns, wrong types, wrong layers."""

    def where(*path: str | int) -> str:
        return source.where(path) if source is not None else ".".join(str(part) for part in path)

    faults: list[Fault] = []

    def need(name: str | None, types: tuple[str, ...], *path: str | int) -> None:
        if name is None:
            return
        column = dictionary.column(name)
        if column is None:
            faults.append(Fault(where(*path), f"the dictionary {dictionary.name} has no column `{name}`"))
        elif column.type not in types:
            faults.append(
                Fault(where(*path), f"column `{name}` is of type {column.type}", f"needed: {' or '.join(types)}")
            )

    numeric = ("number", "integer")
    endpoint = study.endpoint
    faults += endpoint_faults(endpoint, dictionary, where)
    faults += _method_faults(study, dictionary, where)
    for name in study.model.covariates:
        need(name, (*numeric, "boolean", "category"), "model", "covariates")
        if name in endpoint.columns:
            faults.append(Fault(where("model", "covariates"), f"`{name}` is part of the endpoint", "remove it"))
    faults += _layer_faults(study, dictionary, where)
    for index, criterion in enumerate(study.eligibility.criteria):
        place = ("eligibility", "criteria", index)
        need(criterion.column, (*numeric, "boolean", "category"), *place)
        faults += _criterion_faults(criterion, dictionary, where(*place))
    faults += _horizon_faults(study, dictionary, where("endpoint", "horizons_days"))
    if isinstance(study.model.penalty, dict):
        used = {column.layer for name in study.model.covariates if (column := dictionary.column(name))}
        used |= set(study.model.wide_layers)
        for layer in sorted(set(study.model.penalty) - used):
            faults.append(Fault(where("model", "penalty"), f"no covariate is of layer `{layer}`", "remove it"))
    group = study.evaluation.group
    need(group, ("identifier", "category", "integer"), "evaluation", "group")
    if isinstance(study.evaluation.folds, FoldColumn):
        need(study.evaluation.folds.column, ("category", "integer", "identifier"), "evaluation", "folds")
    return faults


_METHODS_OF: dict[str, tuple[Method, ...]] = {
    "time-to-event": ("hazard", "cox", "cox-stratified", "hazard-network"),
    "binary": ("logistic",),
    "category": ("multinomial",),
}


def _method_faults(study: Study, dictionary: Dictionary, where: Callable[..., str]) -> list[Fault]:
    """Return where method, endpoint and treatment do not go together."""
    faults: list[Fault] = []
    model, endpoint = study.model, study.endpoint
    fitting = _METHODS_OF[endpoint.type]
    if model.method not in fitting:
        what = f"`{model.method}` does not fit an endpoint of type {endpoint.type}"
        faults.append(Fault(where("model", "method"), what, f"write {' or '.join(fitting)}"))
    if model.tunes_penalty and not endpoint.has_time:
        what = "penalties are chosen by cross-validation for a time to an event alone"
        faults.append(Fault(where("model", "penalty"), what, "write a number, or one per layer"))
    if model.screening and not endpoint.has_time:
        what = "features are screened by a test of a time to an event alone"
        faults.append(Fault(where("model", "screening"), what, "take it out"))
    if endpoint.has_competing and model.method not in ("hazard", "cox"):
        what = f"`{model.method}` has no cumulative incidence of competing events"
        faults.append(Fault(where("model", "method"), what, "write hazard or cox"))
    column = None if model.treatment is None else dictionary.column(model.treatment)
    if column is not None and column.type != "boolean" and len(column.codes or ()) != 2:
        what = f"the treatment `{column.name}` is no boolean and no category of two codes"
        faults.append(Fault(where("model", "treatment"), what, "give the control as the first code of two"))
    return faults


def _layer_faults(study: Study, dictionary: Dictionary, where: Callable[..., str]) -> list[Fault]:
    faults: list[Fault] = []
    for name in sorted(set(study.model.adjust) - set(study.model.wide_layers)):
        what = f"the model has no wide layer `{name}`"
        faults.append(Fault(where("model", "adjust"), what, "name it under `layers`, or take it out"))
    for index, name in enumerate(study.model.layers):
        if name == CLINICAL or dictionary.wide_layer(name) is not None:
            continue
        place = where("model", "layers", index)
        if name in dictionary.layer_names:
            what = f"layer `{name}` is described column by column"
            faults.append(Fault(place, what, "name its columns under `covariates`"))
        else:
            faults.append(Fault(place, f"the dictionary {dictionary.name} has no layer `{name}`"))
    return faults


def _criterion_faults(criterion: Criterion, dictionary: Dictionary, where: str) -> list[Fault]:
    column = dictionary.column(criterion.column)
    if column is None:
        return []
    if column.type == "category":
        if criterion.value not in (column.codes or ()):
            return [Fault(where, f"`{criterion.value}` is not a code of `{column.name}`")]
        if criterion.op not in ("==", "!="):
            return [Fault(where, f"categories have no order: `{criterion.op}` cannot be asked of `{column.name}`")]
    elif isinstance(criterion.value, str):
        return [Fault(where, f"`{column.name}` is a {column.type}, so its value here must be one")]
    return []


def _horizon_faults(study: Study, dictionary: Dictionary, where: str) -> list[Fault]:
    column = dictionary.column(study.endpoint.time)
    limit = column.max if column is not None else None
    return [
        Fault(where, f"the horizon {horizon:g} lies beyond the largest time of the dictionary, {limit:g}")
        for horizon in study.endpoint.horizons_days
        if limit is not None and horizon > limit
    ]
