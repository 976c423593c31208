from pathlib import Path

from archipel.schema_docs import render
from schemas.result import Result

PAGE = Path(__file__).parents[2] / "docs" / "result.md"


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "python -m archipel.schema_docs > docs/result.md"


def test_every_key_is_described() -> None:
    page = render()
    assert "| None |" not in page
    for name in Result.model_fields:
        assert f"| `{name}` |" in page
