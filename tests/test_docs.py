"""The pages about our files are tested against the code: every key, every default, every example."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from schemas.dictionary import Column, Dictionary, WideLayer, load_dictionary
from schemas.study import (
    Criterion,
    Differential,
    Eligibility,
    Endpoint,
    Evaluation,
    FoldColumn,
    Model,
    Network,
    Privacy,
    Study,
    load_study,
)

DOCS = Path(__file__).parents[1] / "docs"
SECTIONS: list[tuple[str, str, type[BaseModel]]] = [
    ("study-file.md", "Top level", Study),
    ("study-file.md", "`[endpoint]`", Endpoint),
    ("study-file.md", "`[eligibility]`", Eligibility),
    ("study-file.md", "`[[eligibility.criteria]]`", Criterion),
    ("study-file.md", "`[model]`", Model),
    ("study-file.md", "`[model.network]`", Network),
    ("study-file.md", "`[evaluation]`", Evaluation),
    ("study-file.md", "`[evaluation.folds]`", FoldColumn),
    ("study-file.md", "`[privacy]`", Privacy),
    ("study-file.md", "`[privacy.differential]`", Differential),
    ("dictionary-file.md", "Top level", Dictionary),
    ("dictionary-file.md", "`[[columns]]`", Column),
    ("dictionary-file.md", "`[[layers]]`", WideLayer),
]


def documented(page: str, heading: str) -> dict[str, str]:
    """Each key of a section's table with its default as written."""
    text = (DOCS / page).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| .+ \|$", section, flags=re.MULTILINE)
    assert rows, f"no table under {heading}"
    return dict(rows)


def example(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8").split("```toml\n")[1].split("```")[0]


@pytest.mark.parametrize(("page", "heading", "model"), SECTIONS, ids=[f"{p}-{m.__name__}" for p, _, m in SECTIONS])
def test_every_key_is_documented_and_no_other(page: str, heading: str, model: type[BaseModel]) -> None:
    assert list(documented(page, heading)) == list(model.model_fields)


@pytest.mark.parametrize(("page", "heading", "model"), SECTIONS, ids=[f"{p}-{m.__name__}" for p, _, m in SECTIONS])
def test_the_documented_defaults_are_those_of_the_code(page: str, heading: str, model: type[BaseModel]) -> None:
    for name, written in documented(page, heading).items():
        default: Any = model.model_fields[name].default
        if default is PydanticUndefined:
            assert written == "needed", name
        elif written.startswith("`"):
            value = tomllib.loads(f"value = {written.strip('`')}")["value"]
            assert (tuple(value) if isinstance(value, list) else value) == default, name
        else:
            # Words, where the default is no value that one could write.
            assert default is None or isinstance(default, BaseModel), name


def test_the_examples_load(tmp_path: Path) -> None:
    (tmp_path / "dictionary.toml").write_text(example("dictionary-file.md"), encoding="utf-8")
    (tmp_path / "study.toml").write_text(example("study-file.md"), encoding="utf-8")
    assert load_dictionary(tmp_path / "dictionary.toml").name == "cgd"
    study, _ = load_study(tmp_path / "study.toml")
    assert study.model.covariates == ("treatment", "age_years")


@pytest.mark.parametrize("page", sorted([*DOCS.glob("*.md"), DOCS.parent / "README.md"]), ids=lambda path: path.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
