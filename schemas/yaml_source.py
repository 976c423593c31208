"""Reads a YAML file (plain data only) with the line of every key, as `schemas.toml_source` does for TOML."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from schemas.errors import Fault, FaultsError
from schemas.toml_source import Path_, Source, read_text


class YamlSource(Source):
    """A parsed YAML file."""

    def __init__(self, path: Path) -> None:
        """Read and parse `path`.

        Raises:
            FaultsError: When the file is absent, not UTF-8, not YAML of plain data, or not a table of keys.
        """
        self.name = path.name
        text = read_text(path)
        try:
            node = yaml.compose(text, Loader=yaml.SafeLoader)
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            line = f" line {mark.line + 1}" if mark is not None else ""
            raise FaultsError(str(path), [Fault(self.name + line, "is not valid YAML")]) from None
        except (ValueError, RecursionError):  # an impossible date, a number of a million digits, a deep nest
            raise FaultsError(str(path), [Fault(self.name, "is not valid YAML")]) from None
        if not isinstance(data, dict):
            raise FaultsError(str(path), [Fault(self.name, "does not hold keys at its top level")])
        self.data = data
        self._lines = dict(_lines(node, ()))


def _lines(node: yaml.Node | None, path: Path_) -> Iterator[tuple[Path_, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*path, str(key.value))
            yield inner, key.start_mark.line + 1
            yield from _lines(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            inner = (*path, index)
            yield inner, item.start_mark.line + 1
            yield from _lines(item, inner)
