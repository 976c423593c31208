"""How the demo's tables are dealt out to sites."""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archipel.demo_tables import (
    SMALL_CENTRES,
    deal_by_centre,
    deal_by_label,
    read_rows,
    site_name,
    write_site_folders,
)

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
