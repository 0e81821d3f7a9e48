# SPDX-License-Identifier: Apache-2.0
"""Poison: what stands in an origin's log and cannot be taken by the receiver ends as exactly one dead letter.

It gets there past the intake, as a defect or an intruder would put it: written as the user who owns the log, with the
chain continued, so that nothing but the receiver's check can notice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nats.js.errors
import pytest

from appliance.boundary.names import Category, ZoneId, store_stream
from appliance.boundary.pages import link_fact
from appliance.boundary.reasons import Reason
from appliance.boundary.records import HEADER_CHAIN, HEADER_DIGEST, HEADER_ID
from appliance.dev.layout import ENTERPRISE, PLANT, ProcessName
from tests.judge import Poison
from tests.service.world.judgement import Tell, conclude, settle
from tests.service.world.producers import Outgoing
from tests.service.world.readers import dead_letters, last_record
from tests.service.world.seeds import LONG, seed_of
from tests.service.world.zones import BROKER_AWAY, OPERATIONAL, World, peer_of, running_world

ROUNDS: Final = 20 if LONG else 1


@dataclass(frozen=True, slots=True)
class Venom:
    """One kind of poison: how a good fact is spoilt (body, digest), and the reason it is refused for."""

    name: str
    reason: Reason

    def spoil(self, fact: Outgoing) -> tuple[bytes, str]:
        """The body as it is stored, and the digest it is stored under."""
        body = json.dumps(json.loads(fact.payload), sort_keys=True, separators=(",", ":")).encode()
        match self.name:
            case "rotten":
                return body, hashlib.sha256(b"something else").hexdigest()
            case "forged":
                body = body.replace(f"{fact.zone}-bsfg".encode(), b"elsewhere-bsfg", 1)
            case "garbled":
                body = b'{"envelope":'
        return body, hashlib.sha256(body).hexdigest()


VENOMS: Final = (
    Venom("rotten", Reason.DIGEST_MISMATCH),
    Venom("forged", Reason.ZONE_MISMATCH),
    Venom("garbled", Reason.MALFORMED_JSON),
)


@pytest.mark.parametrize("origin", [PLANT, ENTERPRISE])
def test_a_page_that_ends_in_poison_is_consumed_once(tmp_path: Path, tell: Tell, origin: ZoneId) -> None:
    """Agent and hub are killed right after; what stands behind the poison crosses."""
    asyncio.run(_poison(tmp_path, tell, origin))


async def _poison(folder: Path, tell: Tell, origin: ZoneId) -> None:
    async with running_world(folder, seed_of(f"poison {origin}")) as world:
        expected: dict[str, str] = {}
        for _ in range(ROUNDS):
            for venom in VENOMS:
                place = await _one(world, origin, venom)
                expected[place] = venom.reason
        # The one whose digest never fitted its bytes is damage in its origin's log, and the auditor must say so.
        await conclude(world, f"poison from {origin}", tell, damaged=[f"{origin}: {origin} {OPERATIONAL}"])
        async with world.readers[peer_of(origin)].agent() as agent:
            found = [(subject, headers["Bsfg-Reason"]) for subject, headers in await dead_letters(agent)]
        assert dict(found) == expected
        assert len(found) == len(expected)


async def _one(world: World, origin: ZoneId, venom: Venom) -> str:
    """One page that ends in poison; the subject of the dead letter it must leave."""
    producer, peer = world.producer(origin, "cli"), peer_of(origin)
    await world.arrived()
    await world.cut()
    await producer.send_all([producer.make(OPERATIONAL, peer) for _ in range(world.dice.randrange(1, 100))])
    place = await _inject(world, origin, venom, producer.make(OPERATIONAL, peer))
    node = ProcessName.AGENT if origin == PLANT else ProcessName.HUB
    await world.kill_surely(node)  # when it is back it finds, behind what it wrote itself, what it did not write
    await world.heal()
    await _appeared(world, peer, place)
    await world.kill_surely(ProcessName.AGENT, ProcessName.HUB)
    await producer.send_all([producer.make(OPERATIONAL, peer) for _ in range(20)])
    await settle(world)
    return place


async def _inject(world: World, origin: ZoneId, venom: Venom, fact: Outgoing) -> str:
    """Write poison behind the last fact of an origin's log, and declare it."""
    body, digest = venom.spoil(fact)
    name = store_stream(Category(OPERATIONAL))
    async with world.readers[origin].agent() as agent:
        last = await last_record(agent, name)
        assert last is not None
        before, headers, _ = last
        head = link_fact(bytes.fromhex(headers[HEADER_CHAIN]), before + 1, bytes.fromhex(digest))
        epoch = next(s.epoch for s in await world.readers[origin].streams() if s.name == name)
        world.recorder.record(
            Poison(
                zone=peer_of(origin),
                origin=origin,
                category=OPERATIONAL,
                epoch=epoch,
                offset=before + 1,
                id=fact.fact_id,
            )
        )
        written = {
            HEADER_ID: fact.fact_id,
            HEADER_DIGEST: digest,
            HEADER_CHAIN: head.hex(),
            "Nats-Expected-Last-Sequence": str(before),
        }
        ack = await agent.jetstream().publish(f"log.{fact.subject}", body, headers=written)
    assert ack.seq == before + 1
    return f"dead.{origin}.{OPERATIONAL}.{epoch}.{ack.seq}"


async def _appeared(world: World, zone: ZoneId, subject: str) -> None:
    """Wait, as closely as one can look, for a dead letter."""
    async with asyncio.timeout(60), world.readers[zone].agent() as agent:
        while True:
            try:
                await agent.jetstream().get_last_msg("DEAD_LETTERS", subject)
            except nats.js.errors.NotFoundError:
                await asyncio.sleep(0.005)
            except BROKER_AWAY:
                await asyncio.sleep(0.05)
            else:
                return
