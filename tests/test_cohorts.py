from pathlib import Path

import pytest

from tests.cohorts import CohortsAbsentError, locate_cohorts, must_be_present


def test_a_named_folder_is_found(tmp_path: Path) -> None:
    assert locate_cohorts({"ARCHIPEL_COHORTS": str(tmp_path)}) == tmp_path.resolve()


@pytest.mark.parametrize("environ", [{}, {"ARCHIPEL_COHORTS": ""}, {"ARCHIPEL_COHORTS": "/nowhere/at/all"}])
def test_absent_data_is_said_with_what_to_do(environ: dict[str, str]) -> None:
    with pytest.raises(CohortsAbsentError, match=r"data is absent.*ARCHIPEL_COHORTS=\S+ make test"):
        locate_cohorts(environ)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({}, False), ({"CI": ""}, False), ({"CI": "false"}, False), ({"CI": "true"}, True)],
)
def test_only_ci_insists_on_the_data(environ: dict[str, str], expected: bool) -> None:
    assert must_be_present(environ) is expected


def test_the_shared_cohorts_hold_the_demo_tables(cohorts: Path) -> None:
    assert (cohorts / "demo" / "cgd_clinical.csv").is_file()
