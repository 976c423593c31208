"""The columns of the model's matrix, fixed by study and dictionary alone, so that a plan knows every shape.

A number, integer or boolean is one column. A category is one indicator column per code but the first, which is
the reference; codes that no patient has keep their column (it gets weight zero), because what leaves a site
must not depend on what its patients look like.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.dictionary import Dictionary
from schemas.study import Study


@dataclass(frozen=True)
class DesignColumn:
    """One column of the model's matrix.

    Attributes:
        name: As in results: the column's name, or ``column[code]`` for an indicator.
        column: The dictionary's column.
        layer: The layer it stands in; its penalty is that layer's.
        code: The category whose indicator this is.
    """

    name: str
    column: str
    layer: str
    code: str | None = None


def design_columns(study: Study, dictionary: Dictionary) -> tuple[DesignColumn, ...]:
    """Return the matrix columns of a study, in the order of its covariates and the dictionary's codes."""
    columns: list[DesignColumn] = []
    for name in study.model.covariates:
        column = dictionary.column(name)
        if column is None:  # `load_study` has refused this; a plan from elsewhere has not passed it
            raise ValueError(f"the dictionary has no column {name}")
        if column.type == "category":
            columns += [
                DesignColumn(f"{name}[{code}]", name, column.layer, code) for code in (column.codes or ())[1:]
            ]
        else:
            columns.append(DesignColumn(name, name, column.layer))
    return tuple(columns)
