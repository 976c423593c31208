"""The face of the project: the command `archipel` and what a notebook imports.

Puts the sides together and decides nothing of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archipel.notebook import Study
    from schemas.result import Result

__all__ = ["Result", "Study"]


def __getattr__(name: str) -> Any:
    """Load on first use: `import archipel` also happens in every supervisor, which needs none of it."""
    if name == "Study":
        from archipel.notebook import Study

        return Study
    if name == "Result":
        from schemas.result import Result

        return Result
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
