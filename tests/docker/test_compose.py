"""What the compose files promise: hardened containers, and no way from one site to anything but its hub."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
SITES = ("site-a", "site-b", "site-c", "site-d")


def load(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load((DOCKER / name).read_text()))


DEMO = load("compose.yaml")
EVERY = [
    (name, service, words)
    for name in ("compose.yaml", "site.compose.yaml", "site.view.compose.yaml")
    for service, words in load(name)["services"].items()
]


@pytest.mark.parametrize(("file", "service", "words"), EVERY, ids=[f"{file}-{name}" for file, name, _ in EVERY])
def test_every_container_is_read_only_without_capabilities_and_with_nothing_to_gain(
    file: str, service: str, words: dict[str, Any]
) -> None:
    assert words["read_only"] is True
    assert words["cap_drop"] == ["all"]
    assert words["security_opt"] == ["no-new-privileges"]
    assert words["init"] is True
    assert words["stop_grace_period"] == "10s"
    assert not {"privileged", "cap_add", "devices", "network_mode", "pid", "ipc", "user"} & set(words)


def test_every_network_of_the_demo_is_internal_and_two_sites_share_none() -> None:
    assert all(network == {"internal": True} for network in DEMO["networks"].values())
    of = {name: service["networks"] for name, service in DEMO["services"].items()}
    assert sorted(of["hub"]) == sorted(of[site][0] for site in SITES)
    assert all(len(of[site]) == 1 for site in SITES)
    assert len({of[site][0] for site in SITES}) == len(SITES)


def test_no_port_of_the_demo_is_published_and_a_hospitals_site_has_no_port() -> None:
    assert not any("ports" in service for service in DEMO["services"].values())
    assert "ports" not in load("site.compose.yaml")["services"]["site"]


def mounts(service: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Return source and mode by place."""
    parts = [re.sub(r"\$\{[^}]*\}", "FOLDER", line).split(":") for line in service["volumes"]]
    return {place: (source, mode[0] if mode else "rw") for source, place, *mode in parts}


def test_a_site_reads_its_own_tables_and_keeps_its_own_state() -> None:
    for site in SITES:
        found = mounts(DEMO["services"][site])
        assert found["/var/lib/archipel"] == (site, "rw")
        assert found["/data"] == (site.replace("site", "tables"), "ro")
        assert {place for place, (_, mode) in found.items() if mode == "rw"} == {"/var/lib/archipel", "/post"}


def test_the_hub_has_no_table() -> None:
    assert set(mounts(DEMO["services"]["hub"])) == {"/var/lib/archipel", "/post", "/demo", "/configs"}


def test_a_hospitals_tables_are_mounted_read_only() -> None:
    for name, service in (("site.compose.yaml", "site"), ("site.view.compose.yaml", "view")):
        assert mounts(load(name)["services"][service])["/data"][1] == "ro"


def test_compose_holds_no_secret_and_only_settings_that_are_known() -> None:
    known = {
        "STUDY", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ARCHIPEL_HUB__LOGS",
        "ARCHIPEL_SITE__LOGS", "ARCHIPEL_SITE__VIEW__HOST", "ARCHIPEL_SITE__VIEW__PORT",
        "ARCHIPEL_SITE__VIEW__TLS_CERTIFICATE", "ARCHIPEL_SITE__VIEW__TLS_KEY",
    }  # fmt: skip
    named = {str(line).partition("=")[0] for _, _, words in EVERY for line in words.get("environment", ())}
    assert named == known


def test_no_variable_of_a_container_is_named_without_its_value() -> None:
    # Where it is unset podman-compose 1.0.3 gives `exec` the word None, and a proxy of that name answers nobody.
    for _, _, words in EVERY:
        found = words.get("environment", {})
        assert all("=" in line for line in found) if isinstance(found, list) else None not in found.values()


@pytest.mark.parametrize("file", ["compose.yaml", "site.compose.yaml", "site.view.compose.yaml"])
def test_every_variable_of_compose_has_a_default_that_is_not_empty(file: str) -> None:
    # podman-compose 1.0.3 would pass on the text of the variable itself.
    text = (DOCKER / file).read_text()
    assert text.count("${") == len(re.findall(r"\$\{[A-Z_]+:-[^}]+\}", text))


@pytest.mark.parametrize("script", ["demo/hub.sh", "demo/site.sh"])
def test_a_script_of_the_demo_is_plain_shell(script: str) -> None:
    done = subprocess.run(["sh", "-n", str(DOCKER / script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("role", ["hub", "site"])
def test_an_image_runs_as_nobody_of_note_and_asks_the_program_how_it_is(role: str) -> None:
    text = (DOCKER / f"{role}.Dockerfile").read_text()
    final = text[text.index("FROM scratch") :]
    assert "\nUSER 10001:10001\n" in final
    assert f'CMD ["archipel", "{role}", "health"]' in final
    assert "\nRUN" not in final
    assert text.count("pip --python") == text.count("--no-index") == text.count("--require-hashes") == 2
    assert len(re.findall(r"^ADD |^COPY (?!--from=)", text, re.MULTILINE)) == 0
