"""Model facts: what a reader must know of a model before its numbers, from its signed manifest."""

from __future__ import annotations

from dataclasses import dataclass

from client.page.reader import N_, Reader
from client.page.shapes import SiteCalibration
from client.page.words import calibration_text, event_name
from schemas.artefact import Manifest

__all__ = ["Facts", "model_facts"]


@dataclass(frozen=True)
class Facts:
    """The facts in the reader's words.

    Attributes:
        key: The model's hash.
        rows: Name and text of each.
        not_for: What it must not be used for, as the study wrote it.
    """

    key: str
    title: str
    endpoint: str
    rows: tuple[tuple[str, str], ...]
    not_for: tuple[str, ...]


def model_facts(key: str, manifest: Manifest, calibration: SiteCalibration | None, reader: Reader) -> Facts:
    """Return a model's facts.

    Args:
        key: The hash of its file.
        manifest: Read and verified.
        calibration: This site's own, if it was computed.
        reader: In whose language.
    """
    _ = reader.text
    until = reader.date(manifest.expires) if manifest.expires is not None else _(N_("no last day"))
    made = reader.date(manifest.created_at)
    events = _(N_("%(patients)s patients, %(events)s events"), patients=manifest.n_patients, events=manifest.n_events)
    if manifest.causes:
        listed = "; ".join(f"{event_name(cause.code, reader)} {cause.n_events}" for cause in manifest.causes)
        events = _(N_("%(patients)s patients; events: %(list)s"), patients=manifest.n_patients, list=listed)
    rows = [
        (_(N_("Use it for")), manifest.intended_use or "–"),
        (_(N_("Outcome")), manifest.endpoint or manifest.study),
        (_(N_("Learned from")), events),
        (_(N_("At this site")), calibration_text(calibration, manifest.time_unit, reader)),
        (_(N_("Valid until")), until),
        (_(N_("Version")), f"{manifest.study}, {made}, {key[:12]}"),
        (_(N_("Signature")), _(N_("verified with the key of the hub that this site joined"))),
    ]
    if manifest.causes:
        others = ", ".join(event_name(cause.code, reader) for cause in manifest.causes[1:])
        rows.append((_(N_("Other events")), _(N_("%(list)s: whoever has one first is counted there"), list=others)))
    if manifest.epsilon is not None:
        rows.append(
            (_(N_("Privacy")), _(N_("differential privacy, epsilon %(e)s"), e=reader.number(manifest.epsilon)))
        )
    if manifest.contact:
        rows.append((_(N_("Contact")), manifest.contact))
    return Facts(
        key, manifest.title or manifest.study, manifest.endpoint or manifest.study, tuple(rows), manifest.not_for
    )
