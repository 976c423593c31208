"""What a site learns of itself stays with it: a file of its own, beside the masked summand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archipel.site_status import figure_lines
from client.own_figures import OwnFigures, figures_of, keep_own_figures, own_figures
from client.state import SitePaths
from models.concordance import Concordance
from models.site_figures import FIGURES, SiteFigures
from schemas.cohort import Cohort
from tests.models.fold_world import FOLDS, models, patients, step_context, with_censoring

SITE = patients(60, 0)
SENT = {**with_censoring(models(), [SITE]), "asked": np.ones(FOLDS)}
STEP = SiteFigures(step_context(folds=FOLDS))


def kept_of(cohort: Cohort) -> OwnFigures:
    figures = figures_of("run-1", "relapse", STEP, SENT, cohort)
    assert figures is not None
    return figures


def test_the_figures_of_a_run_are_kept_and_shown_at_the_site(tmp_path: Path) -> None:
    paths = SitePaths(tmp_path)
    keep_own_figures(paths, kept_of(SITE))
    (kept,) = own_figures(paths)
    own = STEP.own(SENT, SITE)
    assert kept.values == dict(own.values)
    assert kept.counted == dict.fromkeys(FIGURES, True)
    (line,) = figure_lines([kept])
    assert f"C {own.values['c_index']:.3f}" in line
    assert "about 60 unseen patients" in line
    assert "stay here" in line


def test_a_small_sites_figures_are_shown_as_not_counted(tmp_path: Path) -> None:
    small = SITE.take(np.arange(15))
    keep_own_figures(SitePaths(tmp_path), kept_of(small))
    (kept,) = own_figures(SitePaths(tmp_path))
    assert not any(kept.counted.values())
    assert "too few" in figure_lines([kept])[0]


def test_a_run_that_is_asked_twice_has_one_file_and_other_steps_have_none(tmp_path: Path) -> None:
    paths = SitePaths(tmp_path)
    for _ in range(2):
        keep_own_figures(paths, kept_of(SITE))
    assert figures_of("run-2", "relapse", Concordance(step_context()), SENT, SITE) is None
    assert [one.run_id for one in own_figures(paths)] == ["run-1"]


def test_a_file_that_cannot_be_read_or_written_costs_the_figures_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = SitePaths(tmp_path)
    keep_own_figures(paths, kept_of(SITE))
    (paths.figures / "run-2.json").write_text("{")
    assert len(own_figures(paths)) == 1
    blocked = SitePaths(tmp_path / "other")
    blocked.state.mkdir(parents=True)
    blocked.figures.write_text("a file where the folder should be")
    keep_own_figures(blocked, kept_of(SITE))
    assert "could not be written" in caplog.text


def test_a_site_without_runs_has_no_figures(tmp_path: Path) -> None:
    assert own_figures(SitePaths(tmp_path)) == []


def test_without_a_figure_the_line_says_so() -> None:
    none = OwnFigures(run_id="r", study="s", n_patients=3, values=dict.fromkeys(FIGURES), counted={})
    assert "no figure over about <10" in figure_lines([none])[0]
    assert replace(STEP.own(SENT, SITE), n_events=3).counted.sum() == 0
