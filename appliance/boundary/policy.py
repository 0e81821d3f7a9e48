# SPDX-License-Identifier: Apache-2.0
"""Zone policy: what each category does when it is full, and which categories each peer may fetch and append."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.reasons import Reason


class WhenFull(StrEnum):
    """What a store buffer does at its size limit."""

    REJECT = "reject"
    """Producers hear ``buffer_full``; nothing accepted is ever dropped."""
    DROP_OLDEST = "drop-oldest"
    """The oldest facts go; readers are told the range as a gap."""


@dataclass(frozen=True, slots=True)
class CategoryPolicy:
    """Limits of one category's log on this node; ``max_bytes`` on disk, ``max_age_s`` 0 means no limit."""

    when_full: WhenFull = WhenFull.REJECT
    max_bytes: int = 1024**3
    max_age_s: int = 0


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """What one peer may do here."""

    fetch: frozenset[Category]
    append: frozenset[Category]


@dataclass(frozen=True, slots=True)
class ZonePolicy:
    """The policy of a node: its categories and its peers."""

    zone: ZoneId
    categories: Mapping[Category, CategoryPolicy]
    peers: Mapping[ZoneId, PeerPolicy] = field(default_factory=dict)

    def check_fetch(self, peer: ZoneId, category: Category) -> None:
        """:raises DeniedError: ``unknown_peer`` or ``category_denied``."""
        if category not in self._peer(peer).fetch:
            raise DeniedError(Reason.CATEGORY_DENIED, f"{peer} may not fetch {category}")

    def check_append(self, peer: ZoneId, category: Category) -> None:
        """:raises DeniedError: ``unknown_peer`` or ``category_denied``."""
        if category not in self._peer(peer).append:
            raise DeniedError(Reason.CATEGORY_DENIED, f"{peer} may not append {category}")

    def _peer(self, peer: ZoneId) -> PeerPolicy:
        try:
            return self.peers[peer]
        except KeyError as error:
            raise DeniedError(Reason.UNKNOWN_PEER, peer) from error
