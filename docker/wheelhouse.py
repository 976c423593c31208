"""Gathers the wheels of each role from the lock file, and signs the list of them.

    OUT/release.pub                 public half of the release key (PEM)
    OUT/ROLE/*.whl                  wheels only; a source package is never built
    OUT/ROLE/requirements.txt       what others wrote, with the hashes of the lock file
    OUT/ROLE/archipel.txt           our own wheel, built from this tree, with its hash
    OUT/ROLE/wheelhouse.json        the list: every file with size and SHA-256, source commit, hash of the lock
    OUT/ROLE/wheelhouse.json.sig    Ed25519 signature over the bytes of the list

`requirements.lock` is the one lock file. A role's share of it is the closure of `ROLES` over what the locked
distributions say they require, read from the environment that `make setup` installs from the same file.

Wheels are those of this machine's platform, which the list names. `verify` needs the folder and a public key only;
without this program, `openssl pkeyutl -verify -rawin` and `sha256sum` say the same.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

__all__ = ["ROLES", "WheelhouseError", "build", "closure", "read_lock", "sign_list", "verify"]

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

LIST, SIGNATURE, PUBLIC_KEY = "wheelhouse.json", "wheelhouse.json.sig", "release.pub"
_OWN = "archipel.txt"
_THEIRS = "requirements.txt"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s\\]+)")


class WheelhouseError(Exception):
    """Why there is no wheelhouse, or why the one at hand must not be used."""


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


def sign_list(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the raw signature (64 bytes) over a list's bytes."""
    return key.sign(content)


def verify(folder: Path, public_key: Ed25519PublicKey) -> dict[str, Any]:
    """Hold a role's folder against its signed list, and return the list.

    Raises:
        WheelhouseError: When the signature is not this key's, or naming every file that is missing, extra or changed.
    """
    content, signature = _read(folder / LIST), _read(folder / SIGNATURE)
    try:
        public_key.verify(signature, content)
    except InvalidSignature:
        raise WheelhouseError(
            f"{folder / LIST} is not signed by this key: the list was changed, or another key signed it. "
            "Compare the key's fingerprint with the one that the release names."
        ) from None
    listed = json.loads(content)
    if listed.get("kind") != "wheelhouse" or listed.get("version") != 1:
        raise WheelhouseError(f"{folder / LIST} is not a list of version 1.")
    wanted = {entry["file"]: entry["sha256"] for entry in listed["files"]}
    there = {path.name for path in folder.iterdir()} - {LIST, SIGNATURE}
    faults = [f"missing: {name}" for name in sorted(set(wanted) - there)]
    faults += [f"extra: {name}" for name in sorted(there - set(wanted))]
    faults += [f"changed: {name}" for name in sorted(there & set(wanted)) if _sha256(folder / name) != wanted[name]]
    if faults:
        raise WheelhouseError("\n  ".join([f"{folder} is not what was signed:", *faults]))
    return dict(listed)


# ---------------------------------------------------------------- gathering
def build(root: Path, out: Path, key: Ed25519PrivateKey) -> list[Path]:
    """Write the folder of every role and return them.

    Args:
        root: Of the checkout.
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
    facts = _facts(root, lock_bytes)
    with tempfile.TemporaryDirectory() as scratch:
        own = _own_wheel(root, Path(scratch))
        folders = [
            _write_role(out, role, [lock[name] for name in names], wheels, own, facts, key)
            for role, names in shares.items()
        ]
    (out / PUBLIC_KEY).write_bytes(_public_pem(key.public_key()))
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
    by_hash = {_sha256(path): path for path in pool.glob("*.whl")}
    missing = [entry for entry in entries if not entry.hashes & by_hash.keys()]
    if missing:
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
            listed.writelines(entry.line() for entry in missing)
            listed.flush()
            hashed = ["--only-binary", ":all:", "--require-hashes", "-r", listed.name]
            _pip("download", "--no-deps", "-d", str(pool), *hashed)
        by_hash = {_sha256(path): path for path in pool.glob("*.whl")}
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


def _facts(root: Path, lock_bytes: bytes) -> dict[str, Any]:
    return {
        "source_commit": source_commit(root),
        "lock_sha256": hashlib.sha256(lock_bytes).hexdigest(),
        "python": f"{PYTHON[0]}.{PYTHON[1]}",
        "platform": f"{sysconfig.get_platform()}, {' '.join(platform.libc_ver())}",
    }


def source_commit(root: Path) -> str:
    """Return the commit of the tree, with ``-changed`` where tracked files differ from it; or ``unknown``."""
    asked = ["git", "-C", str(root), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=-changed"]
    answer = subprocess.run(asked, check=False, capture_output=True, text=True)
    return answer.stdout.strip() or "unknown"


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
    (folder / _OWN).write_text(Locked("archipel", str(version), frozenset({_sha256(own)})).line(), "utf-8")
    listed = {
        "kind": "wheelhouse",
        "version": 1,
        "role": role,
        **facts,
        "files": [_entry(path) for path in sorted(folder.iterdir())],
    }
    content = (json.dumps(listed, indent=1) + "\n").encode()
    (folder / LIST).write_bytes(content)
    (folder / SIGNATURE).write_bytes(sign_list(content, key))
    folder.chmod(0o755)
    final = out / role
    if final.exists():
        shutil.rmtree(final)
    return folder.rename(final)


def _entry(path: Path) -> dict[str, Any]:
    name, version = path.name, None
    if path.suffix == ".whl":
        parsed = parse_wheel_filename(path.name)
        name, version = str(parsed[0]), str(parsed[1])
    size = path.stat().st_size
    return {"name": name, "version": version, "file": path.name, "size_bytes": size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WheelhouseError(f"{path} cannot be read ({error.strerror}).") from None


# ---------------------------------------------------------------- the release key
def release_key(path: Path) -> Ed25519PrivateKey:
    """Return the release key, made on first use, readable by its owner alone.

    Raises:
        WheelhouseError: When the file is no such key or others can read it.
    """
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = Ed25519PrivateKey.generate()
        content = fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
    if path.stat().st_mode & 0o077:
        raise WheelhouseError(f"The release key can be read by others: chmod 600 {path}")
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise WheelhouseError(f"{path} is no Ed25519 key (PEM).")
    return key


def _public_pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def read_public_key(path: Path) -> Ed25519PublicKey:
    """Return a public release key.

    Raises:
        WheelhouseError: When the file holds none.
    """
    try:
        key = load_pem_public_key(_read(path))
    except ValueError:
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise WheelhouseError(f"{path} is no public Ed25519 key (PEM).")
    return key


def fingerprint(key: Ed25519PublicKey) -> str:
    """Return the SHA-256 of the key's PEM file, as `sha256sum` prints it."""
    return hashlib.sha256(_public_pem(key)).hexdigest()


# ---------------------------------------------------------------- the command
def _default_key() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "archipel" / "release.key"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="wheelhouse.py", description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("build", help="write OUT/ROLE for every role")
    make.add_argument("--out", type=Path, default=Path("out/wheelhouse"))
    make.add_argument("--key", type=Path, default=_default_key(), help="release key; made where there is none")
    check = commands.add_parser("verify", help="hold folders against their signed lists")
    check.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    check.add_argument("--key", type=Path, help="public key (PEM); default: release.pub beside the folder")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Build or verify; 1 where that fails."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "build":
            key = release_key(asked.key)
            for folder in build(Path(__file__).resolve().parent.parent, asked.out, key):
                size = sum(path.stat().st_size for path in folder.iterdir())
                print(f"{folder}: {len(list(folder.glob('*.whl')))} wheels, {size / 1e6:.0f} MB")
            print(f"Signed by the key with fingerprint {fingerprint(key.public_key())}")
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
