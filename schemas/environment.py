"""Settings by environment: every key of a settings file under its own name, `ARCHIPEL_SITE__FLOORS__MIN_PATIENTS`.

Hub and site read their settings the same way. The environment wins over the file, and what it says is judged as if it
stood in the file: a text key takes the variable's text as it is, every other key takes what TOML would read there
(`8443`, `true`, `["", "NA"]`). A variable under the prefix that names no key is a fault, since a misspelled floor
would otherwise be silently absent. `overlay` decides and touches nothing; `SettingsSource` is its effect.
"""

from __future__ import annotations

import copy
import difflib
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from schemas.errors import Fault, FaultsError
from schemas.toml_source import TomlSource

__all__ = ["HUB_PREFIX", "SITE_PREFIX", "Overlay", "SettingsSource", "Variable", "overlay", "variables"]

SITE_PREFIX = "ARCHIPEL_SITE__"
HUB_PREFIX = "ARCHIPEL_HUB__"
_M = TypeVar("_M", bound=BaseModel)


@dataclass(frozen=True)
class Variable:
    """One variable that a role reads.

    Attributes:
        path: Of the key in the file, section first.
        is_text: Whether its value is taken as it is.
        is_section: Whether it names a section, which takes no value of its own.
    """

    path: tuple[str, ...]
    is_text: bool
    is_section: bool


@dataclass(frozen=True)
class Overlay:
    """A settings file under an environment.

    Attributes:
        data: The file's table with what the environment says instead.
        variables: Which variable a value came from, by the path of its key.
        faults: Variables that cannot be meant.
    """

    data: dict[str, Any]
    variables: Mapping[tuple[str, ...], str]
    faults: tuple[Fault, ...]


def variables(model: type[BaseModel], prefix: str) -> dict[str, Variable]:
    """Return every variable under `prefix` that means something to `model`, by name."""
    return {
        prefix + "__".join(path).upper(): Variable(path, _is_text(kinds), _section(kinds) is not None)
        for path, kinds in _keys(model, ())
    }


def overlay(table: Mapping[str, Any], environ: Mapping[str, str], prefix: str, model: type[BaseModel]) -> Overlay:
    """Put what the environment says over what the file says.

    Args:
        table: The parsed file.
        environ: All variables; those without `prefix` are somebody else's.
        prefix: Of the role.
        model: Of the file; its keys are the names.
    """
    known = variables(model, prefix)
    data = copy.deepcopy(dict(table))
    came_from: dict[tuple[str, ...], str] = {}
    faults = []
    for name in sorted(name for name in environ if name.startswith(prefix)):
        variable = known.get(name)
        fault = _fault(name, environ[name], variable, known)
        if fault is not None or variable is None:
            faults += [fault] if fault is not None else []
            continue
        if _put(data, variable.path, _value(environ[name], variable)):
            came_from[variable.path] = name
    return Overlay(data, came_from, tuple(faults))


class SettingsSource(TomlSource):
    """A settings file under an environment: a fault names its line or its variable."""

    def __init__(self, path: Path, model: type[BaseModel], prefix: str, environ: Mapping[str, str]) -> None:
        """Read `path` and put `environ` over it.

        Raises:
            FaultsError: When the file is absent, not UTF-8, or not TOML.
        """
        super().__init__(path)
        found = overlay(self.data, environ, prefix, model)
        self.data = found.data
        self._variables = found.variables
        self._faults = found.faults

    def where(self, path: Sequence[str | int]) -> str:
        """Return ``variable NAME`` where the environment gave this key, else the line of the file.

        A fault of a whole section names its line and every variable that speaks into it.
        """
        key = tuple(str(part) for part in path)
        for length in range(len(key), 0, -1):  # a fault inside a list is the list's
            if key[:length] in self._variables:
                return f"variable {self._variables[key[:length]]}"
        place = super().where(path)
        is_in_file = place != self.name
        # A missing key has no place: that of the section which lacks it is named.
        sections = [key] if is_in_file else [key[:length] for length in range(len(key), 0, -1)]
        below = next((found for section in sections if (found := self._under(section))), [])
        return " and ".join([*([place] if is_in_file or not below else []), *below])

    def parse(self, model: type[_M]) -> _M:
        """Return the settings.

        Raises:
            FaultsError: Naming every fault of file and environment at once.
        """
        try:
            settings = super().parse(model)
        except FaultsError as error:
            raise FaultsError(self.name, [*error.faults, *self._faults]) from None
        if self._faults:
            raise FaultsError(self.name, self._faults)
        return settings

    def _under(self, section: tuple[str, ...]) -> list[str]:
        found = [name for at, name in self._variables.items() if section and at[: len(section)] == section]
        return [f"variable {name}" for name in found]


def _keys(model: type[BaseModel], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], tuple[Any, ...]]]:
    for name, field in model.model_fields.items():
        path = (*above, field.alias or name)
        kinds = _kinds(field.annotation)
        yield path, kinds
        section = _section(kinds)
        if section is not None:
            yield from _keys(section, path)


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the types that a value may have; the values of a literal stand for their types."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kinds(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(kind for member in typing.get_args(annotation) for kind in _kinds(member))
    if origin is Literal:
        return tuple(type(value) for value in typing.get_args(annotation))
    return (origin or annotation,)


def _is_text(kinds: tuple[Any, ...]) -> bool:
    return any(kind in (str, Path) for kind in kinds)


def _section(kinds: tuple[Any, ...]) -> type[BaseModel] | None:
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _fault(name: str, text: str, variable: Variable | None, known: Mapping[str, Variable]) -> Fault | None:
    where = f"variable {name}"
    if variable is None:
        near = difflib.get_close_matches(name.upper(), known, n=1)
        remedy = f"did you mean {near[0]}? Correct or unset it" if near else "check its spelling or unset it"
        return Fault(where, "is not a known setting", remedy)
    if variable.is_section:
        return Fault(where, "is a section of settings and takes no value", f"name a key of it: {name}__...")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Fault(where, "is not UTF-8 text", "set it again")
    return None


def _value(text: str, variable: Variable) -> Any:
    """Return what the file would hold; text that TOML does not read stays text, and the model says what belongs."""
    if variable.is_text:
        return text
    try:
        read = tomllib.loads(f"value = {text}\n")
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
    return read["value"] if set(read) == {"value"} else text


def _put(data: dict[str, Any], path: tuple[str, ...], value: Any) -> bool:
    """Set one key; False where the file has something else in the place of its section, which is a fault there."""
    here = data
    for part in path[:-1]:
        inside = here.setdefault(part, {})
        if not isinstance(inside, dict):
            return False
        here = inside
    here[path[-1]] = value
    return True
