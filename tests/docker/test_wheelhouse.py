"""What each role is made of, and that a folder which is not what was signed is refused with every file named."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


# Programs beside the Dockerfiles, not a package.
sys.path.insert(0, str(ROOT / "docker"))
signed_list = importlib.import_module("signed_list")
wheelhouse = importlib.import_module("wheelhouse")
LOCK = wheelhouse.read_lock((ROOT / "requirements.lock").read_text())


# ---------------------------------------------------------------- what each role is made of
def shares() -> dict[str, set[str]]:
    requires = wheelhouse._installed_requirements(LOCK)
    return {
        role: wheelhouse.closure(roots, requires, unused=wheelhouse.UNUSED)
        for role, roots in wheelhouse.ROLES.items()
    }


def test_no_role_gets_torch_but_the_one_for_networks() -> None:
    of = shares()
    assert "torch" not in of["hub"] | of["site"]
    assert "torch" in of["site-network"]
    assert of["site"] < of["site-network"]


def test_the_hub_gets_nothing_that_reads_tables_and_no_role_an_installer_or_a_tool_of_tests() -> None:
    of = shares()
    assert not of["hub"] & {"pandas", "pyarrow"}
    assert not of["hub"].union(*of.values()) & {"uv", "pip", "pytest", "matplotlib", "scikit-learn", "pandas"}


MODULES = {
    "hub": "server archipel.cli archipel.cli_hub archipel.cli_runs archipel.cli_models archipel.cli_study "
    "archipel.enrol archipel.homes archipel.hub_status archipel.model_card archipel.models archipel.outputs "
    "archipel.runs archipel.studies archipel.terminal archipel.watching archipel.compare",
    "site": "client archipel.cli archipel.cli_site archipel.cli_site_models archipel.cli_site_view archipel.homes "
    "archipel.cli_site_accounts archipel.demo_sites archipel.model_card archipel.site_check archipel.site_status",
}
IMPORT_ALL = """
import importlib, json, pkgutil, sys
hidden, names = set(json.loads(sys.argv[1])), sys.argv[2].split()

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"{name} is not in this role")

sys.meta_path.insert(0, Hide())
for name in names:
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        for found in pkgutil.walk_packages(module.__path__, f"{name}."):
            importlib.import_module(found.name)
"""


@pytest.mark.parametrize("role", sorted(MODULES))
def test_all_that_a_role_runs_imports_with_its_wheels_alone(role: str) -> None:
    kept = shares()[role] | {"archipel"}
    owners = importlib.metadata.packages_distributions()
    hidden = sorted(
        module for module, names in owners.items() if not {canonicalize_name(name) for name in names} & kept
    )
    assert "torch" in hidden
    command = [sys.executable, "-W", "ignore", "-c", IMPORT_ALL, json.dumps(hidden), MODULES[role]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- the lock file
def test_a_lock_entry_keeps_its_version_and_every_hash() -> None:
    one, two = "a" * 64, "b" * 64
    found = wheelhouse.read_lock(
        f"# note\nFoo_Bar==1.2+cpu \\\n    --hash=sha256:{one} \\\n    --hash=sha256:{two}\n"
    )
    entry = found["foo-bar"]
    assert (entry.version, entry.hashes) == ("1.2+cpu", {one, two})
    assert wheelhouse.read_lock(entry.line()) == found


def test_an_entry_without_a_hash_is_refused() -> None:
    with pytest.raises(signed_list.WheelhouseError, match="foo"):
        wheelhouse.read_lock("foo==1\nbar==2 \\\n    --hash=sha256:" + "a" * 64)


REQUIRES = {
    "app": ["server[fast]>=1", "windows-only; sys_platform == 'win32'", "old; python_version < '3.9'"],
    "server": ["base", "loop; extra == 'fast'", "docs; extra == 'docs'"],
    "base": [],
    "loop": ["base"],
    "docs": [],
}


def test_the_closure_follows_extras_and_markers_and_nothing_else() -> None:
    assert wheelhouse.closure(["app"], REQUIRES, unused=frozenset()) == {"app", "server", "base", "loop"}


def test_an_extra_asked_for_later_is_still_followed() -> None:
    assert "loop" in wheelhouse.closure(["server", "app"], REQUIRES, unused=frozenset())


def test_what_is_unused_goes_with_all_that_only_it_needs() -> None:
    assert wheelhouse.closure(["app"], REQUIRES, unused=frozenset({"server"})) == {"app"}


def test_something_that_is_not_locked_is_named() -> None:
    with pytest.raises(signed_list.WheelhouseError, match="missing-thing"):
        wheelhouse.closure(["app"], {"app": ["missing-thing"]}, unused=frozenset())


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef")), min_size=6, max_size=6))
def test_a_closure_is_closed_and_has_nothing_that_nobody_asked_for(requires: dict[str, list[str]]) -> None:
    found = wheelhouse.closure(["a"], requires, unused=frozenset())
    assert all(set(requires[name]) <= found for name in found)
    assert found - {"a"} <= {needed for name in found for needed in requires[name]}


# ---------------------------------------------------------------- the signed list
@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def folder(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    (tmp_path / "wheels").mkdir()
    wheels = {}
    for name in ("one", "two"):
        path = tmp_path / "wheels" / f"{name}-1.0-py3-none-any.whl"
        path.write_bytes(name.encode())
        wheels[name] = path
    own = tmp_path / "archipel-0.1.0-py3-none-any.whl"
    own.write_bytes(b"ours")
    entries = [wheelhouse.Locked(name, "1.0", frozenset({signed_list.sha256(path)})) for name, path in wheels.items()]
    (tmp_path / "out").mkdir()
    facts = {"source_commit": "c" * 40, "lock_sha256": "d" * 64, "platform": "linux-x86_64"}
    made: Path = wheelhouse._write_role(tmp_path / "out", "site", entries, wheels, own, facts, key)
    (tmp_path / "out" / wheelhouse.PUBLIC_KEY).write_bytes(signed_list.public_pem(key.public_key()))
    return made


def test_the_list_names_every_file_with_hash_size_role_commit_and_lock(folder: Path, key: Ed25519PrivateKey) -> None:
    listed = signed_list.verify(folder, key.public_key())
    assert {entry["file"] for entry in listed["files"]} == {
        path.name for path in folder.iterdir() if path.name not in (signed_list.LIST, signed_list.SIGNATURE)
    }
    assert (listed["role"], listed["source_commit"], listed["lock_sha256"]) == ("site", "c" * 40, "d" * 64)
    ours = next(entry for entry in listed["files"] if entry["name"] == "archipel")
    assert (ours["version"], ours["size_bytes"]) == ("0.1.0", 4)


def test_what_others_wrote_and_what_is_ours_are_installed_by_hash(folder: Path) -> None:
    assert set(wheelhouse.read_lock((folder / "requirements.txt").read_text())) == {"one", "two"}
    own = wheelhouse.read_lock((folder / "archipel.txt").read_text())["archipel"]
    assert own.hashes == {signed_list.sha256(folder / "archipel-0.1.0-py3-none-any.whl")}


def _relist(folder: Path) -> None:
    (folder / signed_list.LIST).write_bytes((folder / signed_list.LIST).read_bytes().replace(b'"site"', b'"hub"'))


CHANGES: list[tuple[Callable[[Path], object], str]] = [
    (lambda folder: (folder / "one-1.0-py3-none-any.whl").unlink(), "missing: one-1.0-py3-none-any.whl"),
    (lambda folder: (folder / "evil-1.0-py3-none-any.whl").write_bytes(b"x"), "extra: evil-1.0-py3-none-any.whl"),
    (lambda folder: (folder / "requirements.txt").write_text("one"), "changed: requirements.txt"),
    (_relist, "is not signed by this key"),
    (lambda folder: (folder / signed_list.SIGNATURE).unlink(), "cannot be read"),
    (lambda folder: (folder / signed_list.SIGNATURE).write_bytes(b""), "is not signed by this key"),
]


@pytest.mark.parametrize(("change", "said"), CHANGES)
def test_a_folder_that_is_not_what_was_signed_is_refused(
    folder: Path, change: Callable[[Path], object], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder)
    assert wheelhouse.main(["verify", str(folder)]) == 1
    assert said in capsys.readouterr().err


def test_every_fault_is_named_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for change, _ in CHANGES[:3]:
        change(folder)
    assert wheelhouse.main(["verify", str(folder)]) == 1
    said = capsys.readouterr().err
    assert all(words in said for _, words in CHANGES[:3])


def test_another_key_is_refused_and_the_right_one_accepted(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wheelhouse.main(["verify", str(folder)]) == 0
    assert "role site, commit cccc" in capsys.readouterr().out
    other = tmp_path / "other.pub"
    other.write_bytes(signed_list.public_pem(Ed25519PrivateKey.generate().public_key()))
    assert wheelhouse.main(["verify", str(folder), "--key", str(other)]) == 1


def test_a_second_build_replaces_the_folder_as_a_whole(folder: Path, tmp_path: Path, key: Ed25519PrivateKey) -> None:
    (folder / "left-over").write_text("x")
    own = tmp_path / "archipel-0.1.0-py3-none-any.whl"
    assert wheelhouse._write_role(tmp_path / "out", "site", [], {}, own, {}, key) == folder
    assert {path.name for path in folder.glob("*.whl")} == {own.name}
    signed_list.verify(folder, key.public_key())
    assert [path.name for path in (tmp_path / "out").glob(".*")] == []


def test_the_release_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "config" / "release.key"
    made = signed_list.release_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    again = signed_list.release_key(path)
    assert signed_list.fingerprint(again.public_key()) == signed_list.fingerprint(made.public_key())
    path.chmod(0o644)
    with pytest.raises(signed_list.WheelhouseError, match="chmod 600"):
        signed_list.release_key(path)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "release.key"
    path.write_text("no key")
    path.chmod(0o600)
    with pytest.raises(signed_list.WheelhouseError, match="no Ed25519 key"):
        signed_list.release_key(path)
    with pytest.raises(signed_list.WheelhouseError, match="no public Ed25519 key"):
        signed_list.read_public_key(path)


def test_a_commit_is_built_as_it_was_and_named_in_full(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(tmp_path / "tree"), *words],
            capture_output=True, text=True, check=True,
        ).stdout.strip()  # fmt: skip

    (tmp_path / "tree").mkdir()
    git("init", "-q")
    (tmp_path / "tree" / "file").write_text("committed")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert wheelhouse._tree_commit(tmp_path / "tree") == commit
    (tmp_path / "tree" / "file").write_text("changed")
    assert wheelhouse._tree_commit(tmp_path / "tree") == f"{commit}-changed"
    (tmp_path / "export").mkdir()
    assert wheelhouse._export(tmp_path / "tree", "HEAD", tmp_path / "export") == commit
    assert (tmp_path / "export" / "file").read_text() == "committed"
    with pytest.raises(signed_list.WheelhouseError, match="no-such"):
        wheelhouse._export(tmp_path / "tree", "no-such", tmp_path / "export")
