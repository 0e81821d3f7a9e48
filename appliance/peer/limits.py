# SPDX-License-Identifier: Apache-2.0
"""How much a peer or a producer may ask of a server: sizes, times and numbers, in one place.

The numbers bound what one hostile or broken caller can cost, not what a working one needs: a full page, a long poll and
a slow line fit with room to spare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from appliance.boundary.pages import MAX_PAGE_BYTES, MAX_PAGE_FACTS

MAX_BODY_BYTES: Final = MAX_PAGE_BYTES + MAX_PAGE_FACTS * 1024
"""A full page with the largest subjects and offsets around its facts."""
MIN_BYTES_PER_S: Final = 4096
"""The slowest transfer that is still worth waiting for."""


@dataclass(frozen=True, slots=True)
class CallLimits:
    """Bounds of single calls and of all that are under way at once in one server."""

    body_bytes: int = MAX_BODY_BYTES
    """One request, after decompression."""
    json_tokens: int = 200_000
    """Brackets and commas of a JSON request; parsing costs about 1 microsecond and 50 bytes for each."""
    stall_s: float = 10.0
    """Patience with a transfer, beyond the time its bytes take at the slowest rate."""
    call_s: float = 60.0
    """Longest time a handler may take; above every long poll."""
    held_bytes: int = 128 * 1024 * 1024
    """Requests and answers in memory, all calls together; beyond it new calls hear ``busy``."""
    calls: int = 512
    """Calls under way, all callers together. One caller may have a quarter of either."""


PRODUCER_CALLS: Final = CallLimits(held_bytes=32 * 1024 * 1024, calls=256)
"""Local producers send small requests, and share the box with everything else."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of connections."""

    connections: int = 512
    handshake_s: float = 10.0
    idle_s: float = 75.0
    """A connection without calls is closed after this time."""
    write_s: float = 30.0
    """A caller that takes none of our bytes for so long is gone."""
    streams: int = 128
    """Calls under way on one connection; callers queue the rest."""
    window_bytes: int = 2 * MAX_BODY_BYTES
    """HTTP/2 flow-control window of a connection; half of it for a single call, so that a page needs no round trips."""
    resets: int = 400
    """Calls that one connection may take back at once; further ones at ``resets_per_s``."""
    resets_per_s: float = 20.0
    linger_s: float = 2.0
    """How long a connection that said goodbye is kept, so that the last answer arrives."""
    grace_s: float = 5.0
    """How long calls under way may take when the server stops."""
