"""Gathers the wheels of each role from the lock file, and signs the list of them.

    OUT/release.pub                 public half of the release key (PEM)
    OUT/ROLE/*.whl                  wheels only; a source package is never built
    OUT/ROLE/requirements.txt       what others wrote, with the hashes of the lock file
    OUT/ROLE/archipel.txt           our own wheel, built from this tree, with its hash
    OUT/ROLE/wheelhouse.json        the list: every file with size and SHA-256, source commit, hash of the lock
    OUT/ROLE/wheelhouse.json.sig    Ed25519 signature over the bytes of the list

`requirements.lock` is the one lock file. A role's share of it is the closure of `ROLES` over what the locked
distributions say they require, read from the environment that `make setup` installs from the same file.

Wheels are those of this machine's platform, which the list names.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from signed_list import (
    WheelhouseError,
    fingerprint,
    public_pem,
    read_public_key,
    release_key,
    sha256,
    verify,
    write_list,
)

__all__ = ["ROLES", "build", "closure", "read_lock"]

PYTHON = (3, 11)
"""Of Debian 12, on which the images stand."""

_BOTH = [
    "flwr",
    "numpy",
    "scipy",
    "pydantic",
    "safetensors",
    "SQLAlchemy",
    "cryptography",
    "typer",
    "rich",
    "jinja2",
    "PyYAML",
    "fastapi",
    "starlette",
    "uvicorn",
    "httpx",
    "prometheus-client",
]
_SITE = [*_BOTH, "pyarrow", "argon2-cffi", "Babel", "python-multipart"]
ROLES: Mapping[str, Sequence[str]] = {"hub": _BOTH, "site": _SITE, "site-network": [*_SITE, "torch"]}
"""What each role imports: the hub reads no table, hence no pyarrow; torch is for studies with a network alone."""

UNUSED = frozenset({"uv"})
"""Required by flwr, never called by us: what installs packages has no place beside a hospital's tables."""

PUBLIC_KEY = "release.pub"
_OWN = "archipel.txt"
_THEIRS = "requirements.txt"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\]+)")


@dataclass(frozen=True)
class Locked:
    """One entry of the lock file.

    Attributes:
        hashes: SHA-256 of every file that may be installed for it.
    """

    name: str
    version: str
    hashes: frozenset[str]

    def line(self) -> str:
        """Return the entry as pip reads it."""
        hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in sorted(self.hashes))
        return f"{self.name}=={self.version}{hashes}\n"


# ---------------------------------------------------------------- deciding
def read_lock(text: str) -> dict[str, Locked]:
    """Return the entries of a lock file by canonical name.

    Raises:
        WheelhouseError: When an entry has no hash.
    """
    found: dict[str, Locked] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        pin = _PIN.match(block)
        if pin is None:
            continue
        hashes = frozenset(_HASH.findall(block))
        if not hashes:
            raise WheelhouseError(f"{pin[1]} stands in the lock file without a hash: run `make lock`.")
        found[canonicalize_name(pin[1])] = Locked(pin[1], pin[2], hashes)
    return found


def closure(roots: Iterable[str], requires: Mapping[str, Sequence[str]], *, unused: frozenset[str]) -> set[str]:
    """Return the canonical names of everything that the roots need.

    Args:
        roots: Requirements, extras allowed.
        requires: What each locked distribution requires, by canonical name, as its metadata says it.
        unused: Names that are left out, with what only they need.

    Raises:
        WheelhouseError: When something needed is not locked.
    """
    waiting = [Requirement(root) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in unused or (name, frozenset(wanted.extras)) in seen:
            continue
        if name not in requires:
            raise WheelhouseError(f"{wanted.name} is needed and stands not in the lock file: run `make lock`.")
        seen.add((name, frozenset(wanted.extras)))
        for line in requires[name]:
            needed = Requirement(line)
            if _applies(needed, wanted.extras):
                waiting.append(needed)
    return {name for name, _ in seen}


def _applies(needed: Requirement, extras: Iterable[str]) -> bool:
    return needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *extras))


# ---------------------------------------------------------------- gathering
def build(root: Path, commit: str, out: Path, key: Ed25519PrivateKey) -> list[Path]:
    """Write the folder of every role and return them.

    Args:
        root: Of the source.
        commit: Of the source, for the list.
        out: Where the folders come.
        key: The release key.
    """
    _refuse_other_platforms()
    lock_bytes = (root / "requirements.lock").read_bytes()
    lock = read_lock(lock_bytes.decode())
    requires = _installed_requirements(lock)
    shares = {role: sorted(closure(roots, requires, unused=UNUSED)) for role, roots in ROLES.items()}
    pool = out / ".wheels"
    pool.mkdir(parents=True, exist_ok=True)
    wheels = _download([lock[name] for name in sorted(set().union(*shares.values()))], pool)
    facts = _facts(commit, lock_bytes)
    with tempfile.TemporaryDirectory() as scratch:
        own = _own_wheel(root, Path(scratch))
        folders = [
            _write_role(out, role, [lock[name] for name in names], wheels, own, facts, key)
            for role, names in shares.items()
        ]
    (out / PUBLIC_KEY).write_bytes(public_pem(key.public_key()))
    return folders


def _refuse_other_platforms() -> None:
    if sys.version_info[:2] != PYTHON or sys.platform != "linux":
        have = f"{platform.python_version()} on {sys.platform}"
        raise WheelhouseError(f"The images run Python {PYTHON[0]}.{PYTHON[1]} on Linux, and this is {have}.")


def _installed_requirements(lock: Mapping[str, Locked]) -> dict[str, list[str]]:
    """Return what each locked distribution requires; those for other platforms are not installed and not needed."""
    found: dict[str, list[str]] = {}
    for name, entry in lock.items():
        try:
            distribution = importlib.metadata.distribution(entry.name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if distribution.version != entry.version:
            raise WheelhouseError(
                f"{entry.name} is {distribution.version} here and {entry.version} in the lock file: run `make setup`."
            )
        found[name] = distribution.requires or []
    return found


def _download(entries: Sequence[Locked], pool: Path) -> dict[str, Path]:
    """Return the wheel of each entry by canonical name; what lies in the pool already is not asked for again."""
    by_hash = {sha256(path): path for path in pool.glob("*.whl")}
    missing = [entry for entry in entries if not entry.hashes & by_hash.keys()]
    if missing:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.writelines(entry.line() for entry in missing)
            listed.flush()
            hashed = ["--only-binary", ":all:", "--require-hashes", "-r", listed.name]
            _pip("download", "--no-deps", "-d", str(pool), *hashed)
        by_hash = {sha256(path): path for path in pool.glob("*.whl")}
    found: dict[str, Path] = {}
    for entry in entries:
        fitting = [by_hash[value] for value in entry.hashes & by_hash.keys()]
        if not fitting:
            raise WheelhouseError(f"There is no wheel of {entry.name} {entry.version} for this platform.")
        found[canonicalize_name(entry.name)] = fitting[0]
    return found


def _own_wheel(root: Path, scratch: Path) -> Path:
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", str(scratch), str(root))
    return next(scratch.glob("archipel-*.whl"))


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-qq", *arguments]
    if subprocess.run(command, check=False).returncode != 0:
        raise WheelhouseError(f"pip {arguments[0]} failed; its reason stands above.")


def _facts(commit: str, lock_bytes: bytes) -> dict[str, Any]:
    return {
        "source_commit": commit,
        "lock_sha256": hashlib.sha256(lock_bytes).hexdigest(),
        "python": f"{PYTHON[0]}.{PYTHON[1]}",
        "platform": f"{sysconfig.get_platform()}, {' '.join(platform.libc_ver())}",
    }


def _tree_commit(root: Path) -> str:
    """Return the commit of the tree, with ``-changed`` where tracked files differ from it; or ``unknown``."""
    asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-changed"]
    answer = subprocess.run(asked, check=False, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


def _export(root: Path, commit: str, into: Path) -> str:
    """Write the files of a commit, whatever the tree holds now, and return the commit's full name."""
    git = ["git", "-C", str(root)]
    named = subprocess.run([*git, "rev-parse", f"{commit}^{{commit}}"], check=False, capture_output=True, text=True)
    if named.returncode != 0:
        raise WheelhouseError(f"{commit} is no commit of {root}.")
    archive = subprocess.run([*git, "archive", named.stdout.strip()], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(into, filter="data")
    return named.stdout.strip()


def _write_role(
    out: Path,
    role: str,
    entries: Sequence[Locked],
    wheels: Mapping[str, Path],
    own: Path,
    facts: Mapping[str, Any],
    key: Ed25519PrivateKey,
) -> Path:
    """Write one role's folder beside the old one, and put it in its place when it is whole."""
    folder = Path(tempfile.mkdtemp(prefix=f".{role}-", dir=out))
    for entry in entries:
        wheel = wheels[canonicalize_name(entry.name)]
        # One copy on the disk for all roles.
        os.link(wheel, folder / wheel.name)
    shutil.copyfile(own, folder / own.name)
    (folder / _THEIRS).write_text("".join(entry.line() for entry in entries), "utf-8")
    _, version, _, _ = parse_wheel_filename(own.name)
    (folder / _OWN).write_text(Locked("archipel", str(version), frozenset({sha256(own)})).line(), "utf-8")
    write_list(folder, {"role": role, **facts}, key)
    folder.chmod(0o755)
    final = out / role
    if final.exists():
        shutil.rmtree(final)
    return folder.rename(final)


# ---------------------------------------------------------------- the command
def _default_key() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "archipel" / "release.key"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wheelhouse.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="write OUT/ROLE for every role")
    make.add_argument("--out", type=Path, default=Path("out/wheelhouse"))
    make.add_argument("--key", type=Path, default=_default_key(), help="release key; made where there is none")
    make.add_argument("--commit", help="build from this commit; default: from the files as they are now")
    check = commands.add_parser("verify", help="hold folders against their signed lists")
    check.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    check.add_argument("--key", type=Path, help="public key (PEM); default: release.pub beside the folder")
    return parser


def _build_from(root: Path, commit: str | None, out: Path, key: Ed25519PrivateKey) -> list[Path]:
    if commit is None:
        return build(root, _tree_commit(root), out, key)
    with tempfile.TemporaryDirectory() as export:
        return build(Path(export), _export(root, commit, Path(export)), out, key)


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or verify; 1 where that fails."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "build":
            key = release_key(asked.key)
            for folder in _build_from(Path(__file__).resolve().parent.parent, asked.commit, asked.out, key):
                size = sum(path.stat().st_size for path in folder.iterdir())
                print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size / 1e6:.0f} MB")
            print(f"Signed with {asked.key}; fingerprint of its public half: {fingerprint(key.public_key())}")
            return 0
        for folder in asked.folders:
            public_key = read_public_key(asked.key or folder.resolve().parent / PUBLIC_KEY)
            listed = verify(folder, public_key)
            print(
                f"{folder}: {len(listed['files'])} files as signed, role {listed['role']}, commit "
                f"{listed['source_commit']}, for {listed['platform']}; key {fingerprint(public_key)}"
            )
    except WheelhouseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
