"""The files that a finished run leaves: result.json, report.html and, where there is one, model.safetensors.

Apart from what runs a trial: the hub writes these files too, and nothing that reads tables is installed there.
"""

from __future__ import annotations

from pathlib import Path

from archipel.folders import make_folder
from archipel.report import write_report
from schemas.plan import Plan
from schemas.result import Result

__all__ = ["write_outputs"]


def write_outputs(
    out: Path, result: Result, model: bytes | None, *, plan: Plan | None = None, simulated: Result | None = None
) -> tuple[Path, Path]:
    """Write ``result.json``, ``report.html`` and, where there is one, ``model.safetensors`` into `out`.

    Returns:
        Where the first two are.
    """
    make_folder(out)
    if model is not None:
        (out / "model.safetensors").write_bytes(model)
    (out / "result.json").write_text(result.to_json(), "utf-8")
    write_report(result, out / "report.html", plan=plan, simulated=simulated)
    return out / "result.json", out / "report.html"
