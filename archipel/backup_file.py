"""The file of a backup: a plain tar with a manifest first, of which every byte is accounted for.

    manifest.SHA256.json   what, whose, when, and name, size and SHA-256 of every other member, in their order
    site.toml, state/...   the members

Any tar reads it; this reader takes nothing but what this writer writes. The manifest's own hash stands in its name,
and from the sizes in it follow the place of every header, block and padding byte, so whatever was flipped, cut off,
added, doubled or linked is found and named before anything is written anywhere. Whoever can write the file can write
another one that holds: a backup proves that it is whole, not who made it. Keep it like the keys in it, or under a
passphrase (`archipel.sealing`), which nobody can make another one under who does not know it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from archipel.sealing import MAGIC, seal, unseal
from privacy.storage import storage_error, sync_folder
from schemas.artefact_manifest import Hash, Key32
from schemas.canonical import canonical_json, read_canonical, sha256_hex
from schemas.errors import ArchipelError, MessageError

__all__ = ["BackupError", "Manifest", "Member", "extract_backup", "member_of", "verify_backup", "write_backup"]

MAX_MANIFEST = 64 << 20
_BLOCK, _RECORD, _CHUNK = 512, 10240, 1 << 20
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,5}$"
_MANIFEST_NAME = re.compile(rb"manifest\.([0-9a-f]{64})\.json")
_LARGEST = 8 << 30  # what the size of a tar header holds
_STRICT = ConfigDict(extra="forbid", frozen=True)


class BackupError(ArchipelError):
    """A backup that cannot be made, or a file that is none, or not a whole one."""


class Member(BaseModel):
    """One file of a backup.

    Attributes:
        name: Below the home's folder.
        size: In bytes.
        sha256: Of its content.
    """

    model_config = _STRICT

    name: Annotated[str, Field(max_length=240, pattern=_NAME)]
    size: Annotated[int, Field(ge=0, lt=_LARGEST, strict=True)]
    sha256: Hash


class Manifest(BaseModel):
    """What a backup says about itself.

    Attributes:
        name: Of the site; of a hub the name or address by which sites reach it.
        created: When.
        code_version: Of the Archipel that made it.
        identity: Public identity of the site or hub at that time.
        ledger_count: Entries of a site's ledger in it.
        ledger_hash: Of the last one; empty for a hub.
        members: In the order in which they stand in the file.
    """

    model_config = _STRICT

    kind: Literal["site-backup", "hub-backup"]
    version: Literal[1] = 1
    name: Annotated[str, Field(max_length=300)]
    created: AwareDatetime
    code_version: Annotated[str, Field(max_length=60)]
    identity: Key32 | None = None
    ledger_count: Annotated[int, Field(ge=0, strict=True)] = 0
    ledger_hash: Hash | Literal[""] = ""
    members: Annotated[tuple[Member, ...], Field(max_length=1_000_000)]

    @model_validator(mode="after")
    def _unique(self) -> Manifest:
        folded = [member.name.casefold() for member in self.members]
        if len(set(folded)) != len(folded):
            raise ValueError("a member stands twice")
        folders = {"/".join(name.split("/")[:i]) for name in folded for i in range(1, name.count("/") + 1)}
        if folders & set(folded):
            raise ValueError("a member is a folder of another")
        return self

    @property
    def content(self) -> bytes:
        """The manifest as canonical bytes."""
        return canonical_json(self.model_dump(mode="json"))

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in order."""
        return tuple(member.name for member in self.members)


# ---------------------------------------------------------------- writing
def member_of(name: str, path: Path) -> Member:
    """Return the entry of a file that will not change any more.

    Raises:
        BackupError: When it is longer than a backup holds.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    if size >= _LARGEST:
        raise BackupError(f"{name} is longer than a backup holds (8 GiB).")
    return Member(name=name, size=size, sha256=digest.hexdigest())


def write_backup(out: Path, manifest: Manifest, folder: Path, passphrase: str | None = None) -> None:
    """Write a backup in one piece; on return it is on the disk, readable by its owner alone.

    Args:
        out: The file, which must not be there.
        manifest: Whose members lie in `folder` and change no more.
        folder: Of the members.
        passphrase: Under which the file is encrypted; None: it is not.

    Raises:
        BackupError: When there is such a file already.
        SealError: When the passphrase is too short.
        StorageError: When the disk does not take it; nothing is left behind.
    """
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            blocks = _blocks(manifest, folder)
            for block in blocks if passphrase is None else seal(blocks, passphrase):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        os.link(partial, out)  # unlike a rename it never replaces an earlier backup
        sync_folder(out.parent)
    except FileExistsError:
        raise BackupError(f"{out} is there already: name another file.") from None
    except OSError as error:
        raise storage_error(out, error) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _blocks(manifest: Manifest, folder: Path) -> Iterator[bytes]:
    content = manifest.content
    yield _header(f"manifest.{sha256_hex(content)}.json", len(content)) + content + _padding(len(content), _BLOCK)
    length = _padded(len(content))
    for member in manifest.members:
        yield _header(member.name, member.size)
        with (folder / member.name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield _padding(member.size, _BLOCK)
        length += _padded(member.size)
    yield bytes(_total(length) - length)


# ---------------------------------------------------------------- reading
@dataclass(frozen=True)
class _Place:
    """Where a member's content lies in the file."""

    member: Member
    start: int


def verify_backup(path: Path, kind: Literal["site-backup", "hub-backup"], passphrase: str | None = None) -> Manifest:
    """Read all of a backup and write nothing.

    Args:
        path: The file.
        kind: Which it has to be.
        passphrase: Under which it was written, if under one.

    Raises:
        SealError: For another passphrase.
        BackupError: Naming the first member that is not what was written.
    """
    with _opened(path, passphrase) as file:
        manifest = _manifest(file)[0]
        if manifest.kind != kind:
            other = "a hub's" if manifest.kind == "hub-backup" else "a site's"
            raise BackupError(f"{path.name} is the backup of {other} folder ({manifest.name}).")
        for place in _places(file, path):
            for _ in _content(file, place):
                pass
    return manifest


def extract_backup(path: Path, folder: Path, passphrase: str | None = None) -> Manifest:
    """Write the members of a backup into an empty folder, each verified once more on its way.

    Raises:
        BackupError: Naming the first member that is not what was written.
        StorageError: When the disk does not take it.
    """
    with _opened(path, passphrase) as file:
        manifest = _manifest(file)[0]
        for place in _places(file, path):
            target = folder / place.member.name
            try:
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as sink:
                    for chunk in _content(file, place):
                        sink.write(chunk)
                    sink.flush()
                    os.fsync(sink.fileno())
            except OSError as error:
                raise storage_error(target, error) from None
    return manifest


@contextlib.contextmanager
def _opened(path: Path, passphrase: str | None) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            is_sealed = file.read(len(MAGIC)) == MAGIC
            file.seek(0)
            if not is_sealed:
                yield file
                return
            if passphrase is None:
                raise BackupError(f"{path.name} is encrypted: name the file of its passphrase (--passphrase-file).")
            folder = path.parent if os.access(path.parent, os.W_OK) else None
            with tempfile.TemporaryFile(dir=folder) as plain:  # has no name, and is gone with this process
                for block in unseal(file, passphrase):
                    plain.write(block)
                yield plain
    except OSError as error:
        raise BackupError(f"{path} cannot be read ({error.strerror}): check the path.") from None


def _manifest(file: BinaryIO) -> tuple[Manifest, int]:
    """Return the manifest and where the first member's header stands."""
    none = BackupError("The file is no backup of Archipel, or its first bytes are damaged.")
    file.seek(0)
    header = file.read(_BLOCK)
    name = _MANIFEST_NAME.match(header)
    size = header[124:135]
    if name is None or not re.fullmatch(rb"[0-7]{11}", size) or int(size, 8) > MAX_MANIFEST:
        raise none
    length = int(size, 8)
    if header != _header(name.group().decode("ascii"), length):
        raise none
    content = file.read(_padded(length) - _BLOCK)
    if len(content) != _padded(length) - _BLOCK or any(content[length:]):
        raise BackupError("The backup ends within its manifest, or bytes beside it were changed.")
    content = content[:length]
    if sha256_hex(content) != name.group(1).decode("ascii"):
        raise BackupError("The backup's manifest was changed.")
    try:
        return read_canonical(Manifest, content, "a backup's manifest", "manifest"), _padded(length)
    except MessageError as error:
        raise BackupError(f"The backup's manifest is {error}: it comes from another version of Archipel.") from None


def _places(file: BinaryIO, path: Path) -> Iterator[_Place]:
    """Yield where each member lies, its header and what pads it verified, and then that nothing follows the last."""
    manifest, at = _manifest(file)
    end = at + sum(_padded(member.size) for member in manifest.members)
    size = os.fstat(file.fileno()).st_size
    if size != _total(end):
        what = "ends too early" if size < _total(end) else "holds more than its manifest names"
        raise BackupError(f"The backup {path.name} {what}: {size} bytes, and {_total(end)} were written.")
    for member in manifest.members:
        file.seek(at)
        if file.read(_BLOCK) != _header(member.name, member.size):
            raise BackupError(f"The backup was changed at the header of {member.name}.")
        file.seek(at + _BLOCK + member.size)
        if any(file.read(len(_padding(member.size, _BLOCK)))):
            raise BackupError(f"The backup was changed behind {member.name}.")
        yield _Place(member, at + _BLOCK)
        at += _padded(member.size)
    file.seek(end)
    if any(file.read()):
        raise BackupError("The backup was changed behind its last member.")


def _content(file: BinaryIO, place: _Place) -> Iterator[bytes]:
    """Yield a member's content; its hash is verified with the last chunk, before that is given."""
    digest, left = hashlib.sha256(), place.member.size
    file.seek(place.start)
    last = b""
    while left:
        last = file.read(min(_CHUNK, left))
        if not last:
            raise BackupError(f"The backup ends within {place.member.name}.")
        digest.update(last)
        left -= len(last)
        if left:
            yield last
    if digest.hexdigest() != place.member.sha256:
        raise BackupError(f"The backup was changed: {place.member.name} is not what was written.")
    yield last


def _header(name: str, size: int) -> bytes:
    """Return the one header that a member has: the same file gives the same bytes, whoever owns it."""
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime, member.uid, member.gid = size, 0o600, 0, 0, 0
    return member.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _padding(size: int, unit: int) -> bytes:
    return bytes(-size % unit)


def _padded(size: int) -> int:
    """Return how long header and content are in the file."""
    return _BLOCK + size + -size % _BLOCK


def _total(end: int) -> int:
    """Return the length of a tar whose last member ends there: two empty blocks, in whole records."""
    return -(-(end + 2 * _BLOCK) // _RECORD) * _RECORD
