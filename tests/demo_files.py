"""What a demo has to leave behind.

`python -m tests.demo_files OUT SAID` looks at what `make demo` wrote into OUT, and said, kept in the file SAID.
"""

from __future__ import annotations

import sys
from pathlib import Path

from archipel.report import read_result


def verify_demo(out: Path, said: str, *, is_simulated_split: bool) -> None:
    """Look at result, reports and last words of a demo.

    Raises:
        AssertionError: Something is not as it should be.
    """
    result, simulated = read_result(out / "result.json"), read_result(out / "simulated" / "result.json")
    assert (result.mode, simulated.mode) == ("federation", "simulate")
    assert {site.status for site in result.sites} == {"took part"}
    assert result.coefficients.keys() == simulated.coefficients.keys()
    for name, found in result.coefficients.items():
        # With layers the sums of two runs differ in their last digits, which the directions of a component magnify.
        assert abs(found - simulated.coefficients[name]) <= (1e-6 if is_simulated_split else 1e-9), name
    for page in (out / "report.html", out / "simulated" / "report.html"):
        assert ("The four sites are simulated" in page.read_text()) == is_simulated_split
    assert result.evaluation.keys() >= {"federated", "site_only"}
    assert result.sums_masked
    assert len(result.evaluation["federated"].c_index.per_fold) == 5
    assert result.evaluation_kind.startswith("5-fold cross-validation over all sites")
    assert "sums masked" in said
    assert "not masked" not in said + (out / "report.html").read_text()
    assert "First round after" in said
    assert "<svg" in (out / "report.html").read_text()


if __name__ == "__main__":
    folder, words = sys.argv[1:]
    verify_demo(Path(folder), Path(words).read_text("utf-8"), is_simulated_split=True)
    print("The demo wrote what it should: result.json, report.html, and the simulation beside them.")
