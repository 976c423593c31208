"""The columns of the model's matrix, fixed by study and dictionary alone, so that a plan knows every shape.

First the covariates that the study names one by one, then, layer by layer, what stands for the wide layers: their
principal components, or all of their features.

A number, integer or boolean is one column. A category is one indicator column per code but the first, which is
the reference; codes that no patient has keep their column (it gets weight zero), because what leaves a site
must not depend on what its patients look like.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from schemas.dictionary import CLINICAL, Dictionary, Transform
from schemas.errors import Fault, FaultsError
from schemas.study import Adjust, Study

MISSING_CODE = "missing"
# No category's indicator bears such a name: those end in a bracket.
_MISSING = " missing"


@dataclass(frozen=True)
class DesignColumn:
    """One column of the model's matrix.

    Attributes:
        name: As in results: the column's name, or ``column[code]`` for an indicator.
        column: The dictionary's column.
        layer: The layer it stands in; its penalty is that layer's.
        code: The category whose indicator this is.
        component: Which principal component of a wide layer this is, from 0; None otherwise.
        treatment: Of an interaction: the treatment's design column. Its cells are the covariate's in the treated, and
            missing, which counts as the mean, in the others: so it is treatment x (covariate - its mean in the
            treated), and the treatment's own coefficient is its effect at that mean.
    """

    name: str
    column: str
    layer: str
    code: str | None = None
    component: int | None = None
    treatment: str | None = None

    @property
    def missing_layer(self) -> str | None:
        """The wide layer of which this column says in whom it is missing; None for every other column."""
        is_indicator = self.code == MISSING_CODE and self.name == f"{self.column}{_MISSING}"
        return self.column if is_indicator else None


@dataclass(frozen=True)
class LayerDesign:
    """A wide layer in the model.

    Attributes:
        name: Of the layer.
        features: m identifiers, in the order of the layer's matrix.
        transform: Of its cells, before anything is summed.
        min_prevalence: Features nonzero in a smaller share of patients get weight zero.
        n_components: r; 0 where all m features are columns of the model.
        adjust: ``site`` where each site corrects its location and scale (`models.adjustment`); empty where none does.
    """

    name: str
    features: tuple[str, ...]
    transform: Transform = "none"
    min_prevalence: float = 0.0
    n_components: int = 0
    adjust: Adjust = ""

    @property
    def n_features(self) -> int:
        """How many features the layer has: m."""
        return len(self.features)

    @property
    def n_columns(self) -> int:
        """How many columns of the model's matrix stand for the layer."""
        return self.n_components or self.n_features


def design_columns(study: Study, dictionary: Dictionary) -> tuple[DesignColumn, ...]:
    """Return the matrix columns of a study, in the order of its covariates and the dictionary's codes.

    After the covariates stand their interactions with the treatment, the indicators of missing layers, then the
    wide layers.
    """
    columns = [column for name in study.model.covariates for column in _columns_of(name, dictionary)]
    if study.model.treatment is not None:
        arm = treatment_column(study, dictionary).name
        columns += [
            replace(column, name=f"{arm} x {column.name}", treatment=arm)
            for name in study.model.interactions
            for column in _columns_of(name, dictionary)
        ]
    if study.model.missing_indicator:
        columns += [
            DesignColumn(f"{layer}{_MISSING}", layer, CLINICAL, MISSING_CODE) for layer in study.model.wide_layers
        ]
    for layer in layer_designs(study, dictionary):
        columns += [
            DesignColumn(f"{layer.name} {k + 1}", layer.name, layer.name, component=k)
            for k in range(layer.n_components)
        ]
        if not layer.n_components:
            columns += [DesignColumn(f"{layer.name}:{name}", name, layer.name) for name in layer.features]
    return tuple(columns)


def treatment_column(study: Study, dictionary: Dictionary) -> DesignColumn:
    """Return the design column that is 1 in treated patients.

    Raises:
        ValueError: When the study names no treatment, or one that is not of two values.
    """
    columns = () if study.model.treatment is None else _columns_of(study.model.treatment, dictionary)
    if len(columns) != 1:
        raise ValueError("the study names no treatment of two values")
    return columns[0]


def _columns_of(name: str, dictionary: Dictionary) -> tuple[DesignColumn, ...]:
    column = dictionary.column(name)
    if column is None:  # `load_study` has refused this; a plan from elsewhere has not passed it
        raise ValueError(f"the dictionary has no column {name}")
    if column.type == "category":
        codes = (column.codes or ())[1:]
        return tuple(DesignColumn(f"{name}[{code}]", name, column.layer, code) for code in codes)
    return (DesignColumn(name, name, column.layer),)


def layer_designs(study: Study, dictionary: Dictionary) -> tuple[LayerDesign, ...]:
    """Return the wide layers of a study, in its order.

    A layer with fewer features (that pass the screening) than the study wants components has one for each feature.

    Raises:
        FaultsError: For a layer whose features nobody has listed yet.
    """
    designs: list[LayerDesign] = []
    for name in study.model.wide_layers:
        layer = dictionary.wide_layer(name)
        if layer is None:
            raise ValueError(f"the dictionary has no wide layer {name}")
        if not layer.identifiers:
            hint = f"write {layer.features} beside the dictionary, one identifier a line (`archipel study features`)"
            raise FaultsError(study.name, [Fault(f"layer {name}", "its features are not listed anywhere", hint)])
        n_kept = min(study.model.screening or len(layer.identifiers), len(layer.identifiers))
        n_components = min(study.model.components, n_kept)
        adjust: Adjust = study.model.adjust.get(name, "")
        designs.append(
            LayerDesign(name, layer.identifiers, layer.transform, layer.min_prevalence, n_components, adjust)
        )
    return tuple(designs)
