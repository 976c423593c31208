"""How the demo's tables are dealt out to sites."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipel.demo import CONFIGS, make_sites
from archipel.demo_tables import (
    SMALL_CENTRES,
    deal_by_centre,
    deal_by_label,
    read_rows,
    site_name,
    write_site_folders,
)
from client.cohort_of import cohort_and_counts
from client.dialect import Dialect
from client.settings import SiteFloors
from schemas.study import load_study

DEMO = Path(__file__).parents[2] / "configs" / "demo"


def test_cgd_is_four_centres_and_the_small_ones_together():
    shares = deal_by_centre(read_rows(DEMO / "cgd_clinical.csv"), "centre")
    assert [(share.name, len(share.rows)) for share in shares] == [
        ("nih", 26),
        ("amsterdam", 19),
        ("scripps-institute", 16),
        ("univ-of-zurich", 16),
        (SMALL_CENTRES, 51),
    ]
    assert len(shares[-1].centres) == 9


def test_acc_is_four_simulated_sites():
    shares = deal_by_label(read_rows(DEMO / "acc_clinical.csv"), "simulated_site", "site")
    assert [(share.name, len(share.rows)) for share in shares] == [
        ("site-a", 36),
        ("site-b", 28),
        ("site-c", 14),
        ("site-d", 14),
    ]


@given(st.lists(st.sampled_from("abcdef"), max_size=80), st.integers(1, 20))
def test_every_patient_is_dealt_once(centres, smallest):
    rows = [{"patient_id": str(i), "centre": centre} for i, centre in enumerate(centres)]
    shares = deal_by_centre(rows, "centre", smallest)
    dealt = Counter(row["patient_id"] for share in shares for row in share.rows)
    assert dealt == Counter(row["patient_id"] for row in rows)
    assert all(len(share.rows) >= smallest for share in shares if share.name != SMALL_CENTRES)


@given(st.text(max_size=200))
def test_site_names_are_plain(text):
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,59}", site_name(text))


@pytest.mark.parametrize(
    ("centre", "name"),
    [
        ("L.A. Children's Hosp", "l-a-childrens-hosp"),
        ("Hôpital Necker – Enfants malades", "hopital-necker-enfants-malades"),
        ("../../etc/passwd", "etc-passwd"),
        ("東京", "site"),
    ],
)
def test_site_names_of_difficult_centres(centre, name):
    assert site_name(centre) == name


def test_site_tables_hold_what_was_dealt(tmp_path):
    shares = deal_by_centre(read_rows(DEMO / "cgd_clinical.csv"), "centre")
    folders = write_site_folders(shares, tmp_path, without=("centre",))
    for share in shares:
        rows = read_rows(folders[share.name] / "clinical.csv")
        assert [{**row, "centre": before["centre"]} for row, before in zip(rows, share.rows, strict=True)] == list(
            share.rows
        )
        assert "centre" not in rows[0]


def test_each_layer_goes_to_the_site_of_its_patients_and_one_site_lacks_one(tmp_path):
    make_sites("acc", tmp_path)
    clinical = {site: ids(tmp_path / site / "clinical.csv") for site in ("site-a", "site-b", "site-c", "site-d")}
    for layer in ("rna", "cnv", "protein", "mutation", "mirna"):
        whole = {row["patient_id"]: row for row in read_rows(DEMO / f"acc_{layer}.csv")}
        dealt = {}
        for site, patients in clinical.items():
            path = tmp_path / site / f"{layer}.csv"
            if (site, layer) == ("site-d", "mirna"):
                assert not path.exists()
                continue
            rows = read_rows(path)
            assert {row["patient_id"] for row in rows} <= patients
            dealt |= {row["patient_id"]: row for row in rows}
        missing = set(whole) - set(dealt)
        assert dealt.items() <= whole.items()
        assert missing <= (clinical["site-d"] if layer == "mirna" else set()) | {"ACC-086"}


def test_protein_of_the_two_small_sites_is_below_the_floor(tmp_path):
    make_sites("acc", tmp_path)
    assert {site: len(ids(tmp_path / site / "protein.csv")) for site in ("site-c", "site-d")} == {
        "site-c": 6,
        "site-d": 7,
    }
    study, dictionary = load_study(CONFIGS / "acc" / "study.toml")
    missing = {
        site: cohort_and_counts(tmp_path / site, dictionary, study, Dialect(), SiteFloors())[1].missing_layers
        for site in ("site-a", "site-b", "site-c", "site-d")
    }
    assert missing == {"site-a": (), "site-b": (), "site-c": ("protein",), "site-d": ("mirna", "protein")}


def test_what_the_demos_sites_are_is_said(tmp_path):
    assert "simulated" in make_sites("acc", tmp_path).notes[0]
    assert make_sites("cgd", tmp_path / "cgd").notes == ()


def ids(path):
    return {row["patient_id"] for row in read_rows(path)}
