# SPDX-License-Identifier: Apache-2.0
"""What every source of audit records does: the contract suite of :class:`AuditSource`."""

from __future__ import annotations

import select
from collections.abc import Callable
from dataclasses import dataclass

from appliance.watchdog.probes.audit import AuditSource

USER_AVC = 1107
"""A record that a program may ask for; the kernel records it whether audit is on or not."""


@dataclass(frozen=True, slots=True)
class World:
    """A source, and somebody who has something recorded."""

    source: AuditSource
    record: Callable[[bytes], None]


class AuditContract:
    """Subclass it with a fixture ``world``."""

    def test_it_says_how_it_is(self, world: World) -> None:
        """Numbers that are not below zero."""
        status = world.source.status()
        assert status.enabled in {0, 1, 2}
        assert status.lost >= 0
        assert status.rules >= 0

    def test_a_record_is_told(self, world: World) -> None:
        """Each once, by its type, with its text."""
        world.source.records()
        world.record(b"a word of our own")
        assert select.select([world.source.fileno()], [], [], 5.0)[0]
        found, missed = world.source.records()
        ours = [each for each in found if each.kind == USER_AVC and b"a word of our own" in each.body]
        assert (len(ours), missed) == (1, False)
        assert not [each for each in world.source.records()[0] if b"a word of our own" in each.body]
