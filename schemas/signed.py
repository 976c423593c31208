"""A document under one signature: its canonical bytes, and which of them the signature covers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from schemas.artefact_manifest import Key32, Signature64
from schemas.canonical import canonical_json

__all__ = ["Signed"]


class Signed(BaseModel):
    """A document under one signature.

    Attributes:
        signed_by: The public key.
        signature: Over `signed_bytes`; "" until there is one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    kind: str
    version: int
    signed_by: Key32
    signature: Signature64 | Literal[""] = ""

    @property
    def said(self) -> dict[str, Any]:
        """What the document says, as JSON."""
        return self.model_dump(mode="json")

    @property
    def content(self) -> bytes:
        """The document as canonical bytes."""
        return canonical_json(self.said)

    @property
    def signed_bytes(self) -> bytes:
        """What the signature covers: everything else, under the document's own kind and version."""
        content = {key: value for key, value in self.said.items() if key != "signature"}
        return f"archipel {self.kind} {self.version}\n".encode() + canonical_json(content)
