"""A site's figures: right, computed from what lies on the disk, and with no identifier among them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from client.run_notes import note_heard, note_storage_refusal
from client.site_watch import SiteWatch
from client.state import SitePaths
from privacy.budget import Budget, Charge, Limit
from schemas.codes import Code
from schemas.health import Finding, Health
from schemas.processes import ChildState
from tests.guards import GuardedSite

HEALTH = Health("site", "2026-11-20T12:00:00+00:00", (Finding("hub", "warning", "not heard"),))
STATES = (ChildState("agent", 1, 0, 2, 1, True), ChildState("runner", None, 1, 0, 1, False))
SETTINGS = 'kind = "site"\nversion = 1\nname = "chu-secret"\ntitle = "CHU"\nhub_address = "hub:1"\ntables = "t"\n'
BUDGET = '[budget]\ndataset = "dupont-registry"\nepsilon = 3.0\n'


def figures(watch: SiteWatch) -> dict[tuple[str, str], float]:
    text = watch.exposition(HEALTH).decode()
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def labels(watch: SiteWatch) -> set[tuple[str, str]]:
    text = watch.exposition(HEALTH).decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {label for sample in samples for label in sample.labels.items()}


@pytest.fixture
def site(tmp_path: Path) -> GuardedSite:
    made = GuardedSite(tmp_path)
    (tmp_path / "site.toml").write_text(SETTINGS + BUDGET)
    (tmp_path / "run").mkdir(exist_ok=True)
    assert made.set_up().status == "ok"
    return made


def test_figures_follow_the_ledger_and_survive_a_restart(site: GuardedSite) -> None:
    watch = SiteWatch(site.home, lambda: STATES)
    before = figures(watch)
    site.answer(site.ask(), site.draft())
    site.answer(site.ask(plan_hash="0" * 64), None)
    events = site.ledger()
    after = figures(watch)
    assert after["archipel_site_rounds_total", ""] == before["archipel_site_rounds_total", ""] + 1
    assert after["archipel_site_ledger_entries_total", ""] == len(events)
    assert after["archipel_site_sent_bytes_total", ""] == sum(
        entry.event.n_bytes for entry in events if entry.event.kind != "refusal"
    )
    refused = next(entry.event.rule for entry in events if entry.event.kind == "refusal")
    assert after["archipel_site_refusals_total", refused] == 1
    assert figures(SiteWatch(site.home, lambda: STATES)) | ages(after) == after | ages(after)


def ages(found: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    return {key: value for key, value in found.items() if "age" in key[0] or "free" in key[0]}


def test_processes_health_storage_hub_and_budget_are_told(site: GuardedSite) -> None:
    note_storage_refusal(site.home, 12.5)
    note_heard(site.home, 99.0)
    site.paths.paused.touch()
    budget = Budget(SitePaths(site.home).budget)
    limit = Limit(3.0, 1e-5)
    budget.debit(Charge("dupont-registry", "run-1", "fit", 1, 0.01, "study", "hash"), limit)
    spent = budget.left("dupont-registry", limit).spent_epsilon
    budget.close()
    found = figures(SiteWatch(site.home, lambda: STATES))
    expected = {
        ("archipel_healthy", ""): 1.0,
        ("archipel_findings", "warning"): 1.0,
        ("archipel_process_running", "agent"): 1.0,
        ("archipel_process_running", "runner"): 0.0,
        ("archipel_process_restarts_total", "agent"): 2.0,
        ("archipel_site_storage_failures_total", ""): 1.0,
        ("archipel_site_storage_failure_timestamp_seconds", ""): 12.5,
        ("archipel_site_hub_heard_timestamp_seconds", ""): 99.0,
        ("archipel_site_paused", ""): 1.0,
        ("archipel_site_budget_epsilon", ""): 3.0,
        ("archipel_site_budget_spent_epsilon", ""): spent,
        ("archipel_site_budget_releases_total", ""): 1.0,
        ("archipel_figures_left_out", ""): 0.0,
    }
    assert expected.items() <= found.items()
    assert 0 < found["archipel_site_budget_left_epsilon", ""] < 3.0


def test_no_identifier_is_in_any_label(site: GuardedSite) -> None:
    site.answer(site.ask(), site.draft())
    keys = site.home / "keys"
    keys.mkdir(exist_ok=True)
    (keys / "node.key").write_text("x")
    ours = {
        "level": {"ok", "warning", "error"},
        "process": {"agent", "runner"},
        "rule": {str(code) for code in Code},
        "key": {"node", "identity"},
        "certificate": {"authority"},
    }
    for name, value in labels(SiteWatch(site.home, lambda: STATES)):
        assert value in ours[name] if name != "version" else re.fullmatch(r"[0-9.a-z+]+", value)
    text = SiteWatch(site.home, lambda: STATES).exposition(HEALTH).decode()
    for word in ("chu-secret", "dupont", "run-1", site.plan.study.name, site.plan.hash):
        assert word not in text


def test_what_cannot_be_computed_is_left_out_and_counted(site: GuardedSite) -> None:
    site.paths.ledger.write_bytes(b"changed\n")
    found = figures(SiteWatch(site.home, lambda: STATES))
    assert found["archipel_figures_left_out", ""] == 1.0
    assert ("archipel_site_rounds_total", "") not in found
    assert found["archipel_healthy", ""] == 1.0


def test_looking_makes_nothing(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SETTINGS + BUDGET)
    watch = SiteWatch(tmp_path, lambda: STATES)
    found = figures(watch)
    watch.look()
    assert [path.name for path in tmp_path.iterdir()] == ["site.toml"]
    assert found["archipel_site_budget_spent_epsilon", ""] == 0.0
    assert found["archipel_site_ledger_entries_total", ""] == 0.0
