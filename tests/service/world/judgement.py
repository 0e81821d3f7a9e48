# SPDX-License-Identifier: Apache-2.0
"""How a run of the world ends: quiet, everything arrives, everybody reads, the judge speaks, the auditor looks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import trio

from appliance.boundary.names import ZoneId
from appliance.dev.audit import audit
from appliance.dev.layout import ZONES
from appliance.factlog.audit import LogAudit
from tests.judge import Quiet, Verdict, check
from tests.service.world.zones import World

QUIET_S: Final = 60.0
"""How long after the last fault everything may take to have crossed."""

READ_S: Final = 30.0
"""How long it may take until a zone could be read whole."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the judge and the auditor say."""

    verdict: Verdict
    audits: dict[ZoneId, list[LogAudit]]

    @property
    def findings(self) -> list[str]:
        """What the auditor found wrong, with the log it is in."""
        return [
            f"{zone}: {log.origin} {log.category} {log.epoch[:8]}: {finding}"
            for zone, logs in self.audits.items()
            for log in logs
            for finding in log.findings
        ]


async def settle(world: World) -> None:
    """One quiet period in the middle or at the end of a run: everything arrives, both zones are read."""
    world.recorder.record(Quiet(deadline_s=QUIET_S))
    await world.arrived(QUIET_S)
    await read_both(world)


async def read_both(world: World) -> None:
    """Read both zones; a node that was just killed serves readers again soon."""
    for zone in ZONES:
        async with asyncio.timeout(READ_S):
            while not await world.try_read(zone):  # noqa: ASYNC110 - each turn is a reading
                await asyncio.sleep(0.2)


async def audited(world: World, zone: ZoneId) -> list[LogAudit]:
    """What ``bsfg audit verify`` finds in a zone, whether it runs or not."""
    return await asyncio.to_thread(trio.run, audit, world.environment, zone)


async def conclude(
    world: World, name: str, tell: Tell, *, receipts: bool = False, damaged: Sequence[str] = ()
) -> Judgement:
    """End a run; all that must hold in every run is asserted here.

    :param receipts: wait until everything is confirmed, which takes some seconds of silence.
    :param damaged: what the auditor must find, because logs were damaged on purpose; there must be no other finding.
    """
    await settle(world)
    if receipts:
        await world.confirmed()
        await asyncio.to_thread(world.note_receipts)
        await read_both(world)
    verdict = check(world.recorder.events)
    audits = {zone: await audited(world, zone) for zone in ZONES}
    judgement = Judgement(verdict, audits)
    tell(f"{name}: seed {world.seed}: {_counts(world, verdict)}")
    assert verdict.ok, verdict.violations
    assert not verdict.unproven, verdict.unproven
    assert verdict.counts.lost == verdict.counts.doubled == 0
    missing = [words for words in damaged if not any(words in finding for finding in judgement.findings)]
    assert not missing, (missing, judgement.findings)
    unasked = [finding for finding in judgement.findings if not any(words in finding for words in damaged)]
    assert not unasked, unasked
    return judgement


def _counts(world: World, verdict: Verdict) -> str:
    counts = verdict.counts
    parts = {
        "facts": counts.facts,
        "calls": counts.appended,
        "acknowledged": counts.acked,
        "duplicates": counts.duplicates,
        "refused": sum(counts.refused.values()),
        "unknown": counts.info,
        "kills": sum(world.kills.values()),
        "cuts": world.cuts,
        "freezes": world.freezes,
        "readings": counts.snapshots,
        "receipts": counts.confirms,
        "gaps": counts.gaps,
        "dead letters": counts.dead_letters,
        "lost": counts.lost,
        "doubled": counts.doubled,
    }
    return ", ".join(f"{value} {name}" for name, value in parts.items())
