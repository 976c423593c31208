"""HTTP headers of ours beside Flower's, between a site's agent and the hub's public listener."""

from __future__ import annotations

__all__ = ["INSTANCE_HEADER", "REASON_HEADER", "TIME_HEADER"]

REASON_HEADER = "x-archipel-reason"
"""Response: why a site is refused, as one of a few fixed words."""

TIME_HEADER = "x-archipel-time"
"""Response: the hub's clock, in seconds since 1970."""

INSTANCE_HEADER = "x-archipel-instance"
"""Request: a digest of the folder and machine that an agent runs in, of which only one can be alive."""
