# SPDX-License-Identifier: Apache-2.0
"""How the room of ``/var`` is shared: what stays free, what each broker may take, and what a category gets of it. Pure.

JetStream sets aside each stream's ``max_bytes`` when the stream is made, and refuses one that does not fit below
``max_file_store``. So what a site gives its categories is made to fit the disk before any stream is made, and a small
disk means small buffers and a line that says so, not a category that cannot be opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from appliance.boundary.names import Category
from appliance.boundary.policy import CategoryPolicy, ZonePolicy

MIB: Final = 1024 * 1024
RESERVE_PART: Final = 5
"""One part in so many of ``/var`` is for no broker: the ledger, keys, the journal, and room to work in."""
LEAST_RESERVE: Final = 96 * MIB
CONTROL_PART: Final = 20
CONTROL_RANGE: Final = (16 * MIB, 256 * MIB)
DEAD_LETTER_BYTES: Final = 256 * MIB
"""What the stream of dead letters sets aside (:mod:`appliance.factlog.streams`)."""
EPOCHS: Final = 2
"""So many logs of one category of the peer are to fit: the one in use, and one of before the peer lost its own."""
LEAST_CATEGORY: Final = MIB


@dataclass(frozen=True, slots=True)
class Storage:
    """What may be taken of a disk, in bytes.

    :param part: what each category gets of what the site gave it, 0 to 1; below 1 the disk is too small for the site.
    """

    reserve: int
    facts: int
    control: int
    part: float

    def fitted(self, policy: ZonePolicy) -> ZonePolicy:
        """The policy with sizes that fit."""
        return replace(policy, categories=_scaled(policy.categories, self.part))


def share(var_bytes: int, policy: ZonePolicy) -> Storage:
    """Share a file system of that size among the brokers of a box."""
    reserve = max(LEAST_RESERVE, var_bytes // RESERVE_PART)
    control = min(max(var_bytes // CONTROL_PART, CONTROL_RANGE[0]), CONTROL_RANGE[1])
    facts = max(var_bytes - reserve - control, DEAD_LETTER_BYTES + _needed(_scaled(policy.categories, 0.0), policy))
    room, wanted = facts - DEAD_LETTER_BYTES, _needed(policy.categories, policy)
    part = 1.0 if wanted <= room else room / wanted
    while part < 1.0 and part > 0.0 and _needed(_scaled(policy.categories, part), policy) > room:
        part = max(0.0, part - 0.01)  # a category that got its least took it from the others
    return Storage(reserve, facts, control, part)


def _needed(categories: Mapping[Category, CategoryPolicy], policy: ZonePolicy) -> int:
    """What all streams of a zone set aside, but for dead letters."""
    own = sum(category.max_bytes for category in categories.values())
    received = [categories[name].max_bytes for peer in policy.peers.values() for name in peer.append]
    return own + EPOCHS * sum(received)


def _scaled(categories: Mapping[Category, CategoryPolicy], part: float) -> dict[Category, CategoryPolicy]:
    return {
        name: replace(category, max_bytes=max(LEAST_CATEGORY, int(category.max_bytes * part)))
        for name, category in categories.items()
    }
