"""Writes docs/result.md from the descriptions in `schemas.result`, so that the page cannot lag behind the file.

`python -m archipel.schema_docs > docs/result.md`; a test compares the two.
"""

from __future__ import annotations

import inspect
import sys
import types
import typing
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from schemas.result import Result

_HEAD = """# result.json

What a run found, what it cost and what left the sites: one JSON file, UTF-8, `kind` = `result`, `version` = 1.
This page is written from `schemas/result.py` (`python -m archipel.schema_docs > docs/result.md`).

```python
from pathlib import Path
from archipel.report import read_result

result = read_result(Path("out/demo/result.json"))
print(result.coefficients, result.evaluation["federated"].c_index.mean)
```

- A number that does not exist is `null`, and `reasons` beside it says why. NaN is never written.
- Times are in `study.time_unit`. Coefficients are log hazard ratios (of an outcome without a time, log odds ratios)
  for one unit of the covariate.
- Counts of a site or a group are text for people: rounded to the nearest 5, `<10` under 10.
- A key is never removed or given another meaning within a version, and new keys get a default, so every later build
  reads this file. A reader that meets an unknown version stops.
"""

_PLAIN = {int: "integer", float: "number", str: "text", bool: "true or false"}


def render() -> str:
    """Return the page."""
    parts = [_HEAD]
    for model in _models(Result):
        title = "The file" if model is Result else model.__name__
        parts.append(f"\n## {title}\n\n{inspect.getdoc(model)}\n\n| key | type | meaning |\n|---|---|---|\n")
        for name, field in model.model_fields.items():
            annotation = typing.get_type_hints(model, include_extras=True)[name]
            parts.append(f"| `{name}` | {_type(annotation)} | {field.description} |\n")
    return "".join(parts)


def _models(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> Iterator[type[BaseModel]]:
    """Yield a model and those inside it, each once, in the order in which a reader meets them."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield model
    for annotation in typing.get_type_hints(model).values():
        for inner in _inside(annotation):
            yield from _models(inner, seen)


def _inside(annotation: Any) -> Iterator[type[BaseModel]]:
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _inside(argument)


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(arguments[0])
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in arguments)
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"object: {_type(arguments[0])} → {_type(arguments[1])}"
    if annotation is type(None):
        return "null"
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _PLAIN.get(annotation, "date and time with its zone")


if __name__ == "__main__":
    sys.stdout.write(render())
