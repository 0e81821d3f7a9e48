# SPDX-License-Identifier: Apache-2.0
"""Flow control: a receiver whose buffer is full takes nothing and says when; the sender waits and loses nothing."""

from __future__ import annotations

import json
import random
from functools import partial

import trio
import trio.testing

from appliance.boundary.claims import IdClaims
from appliance.boundary.crossing import Crossing
from appliance.boundary.messages import parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import MAX_PAGE_FACTS, START, FetchRequest, Page
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, ZonePolicy
from appliance.boundary.producing import ProducedFact
from appliance.boundary.reasons import Reason
from appliance.boundary.sink import FULL_RETRY_MS, Sink
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from tests.fakes.keys import FakeKeys
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults, Limits

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
AUDIT = Category("audit")


def fact(number: int) -> ProducedFact:
    """A small fact."""
    envelope = {"message_id": f"m{number}", "from_zone": "plant-a-bsfg", "to_zone": "all", "produced_at_unix_ms": 1}
    content = {"subject": "s", "predicate": "p", "object_json": {"n": number}}
    payload = json.dumps({"envelope": envelope, "fact": content}).encode()
    return ProducedFact("facts.audit.plant-a.all.press.x", payload)


class Zones:
    """A source with facts and a sink whose disk holds only so many records; everything in memory."""

    def __init__(self, room: int) -> None:
        faults = Faults(random.Random(0))
        self.disk = FakeDisk()
        categories = {AUDIT: CategoryPolicy()}
        everything = PeerPolicy(frozenset([AUDIT]), frozenset([AUDIT]))
        here = ZonePolicy(PLANT, categories, {HUB: everything})
        there = ZonePolicy(HUB, categories, {PLANT: everything})
        ledger, claims = FakeLedger(), IdClaims()
        self.store = StoreBuffer(
            PLANT, AUDIT, FakeLogs(PLANT, FakeDisk(), faults), ledger, claims, note=lambda incident: None
        )
        self.source = Source(here, {AUDIT: self.store}, ledger, FakeKeys(PLANT, [HUB]), note=lambda incident: None)
        self.limits = {AUDIT: Limits(max_records=room)}
        self.sink = Sink(
            there,
            FakeLogs(HUB, self.disk, faults, self.limits),
            FakeLedger(),
            FakeKeys(HUB, [PLANT, HUB]),
            IdClaims(),
            wall_clock_ms=lambda: 0,
            note=lambda incident: None,
        )

    def make_room(self, room: int) -> None:
        """How many records the receiver's logs may hold from now on."""
        for stream in self.disk.streams.values():
            stream.limits = Limits(max_records=room)

    def received(self) -> int:
        """Facts in the receiver's logs."""
        return sum(record.is_fact for stream in self.disk.streams.values() for record in stream.records)


async def test_a_full_receiver_takes_nothing_and_says_when(autojump_clock: trio.testing.MockClock) -> None:
    """The answer is a frontier that did not move, no credit, and a pause: not an error."""
    zones = Zones(room=3)
    await zones.store.commit([[parse_produced(fact(n))] for n in range(1, 11)])
    located = await zones.sink.append_page(PLANT, zones_probe(b""))
    page = await zones.source.fetch_page(HUB, FetchRequest(AUDIT))
    answer = await zones.sink.append_page(PLANT, page)
    assert (answer.frontier, answer.credit_facts, answer.retry_after_ms) == (located.frontier, 0, FULL_RETRY_MS)
    assert zones.received() == 0


async def test_the_sender_waits_and_goes_on_when_there_is_room(autojump_clock: trio.testing.MockClock) -> None:
    """While it waits its status says why; when there is room everything crosses, once."""
    zones = Zones(room=3)
    await zones.store.commit([[parse_produced(fact(n))] for n in range(1, 11)])
    crossing = Crossing("push audit", AUDIT, PLANT, HUB, zones.source, zones.sink, page_facts=MAX_PAGE_FACTS - 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(crossing.run)
        await trio.sleep(60)
        problem = crossing.status.problem
        assert problem is not None
        assert problem.reason is Reason.BUFFER_FULL
        zones.make_room(1000)
        await trio.sleep(60)
        assert zones.received() == 10
        assert crossing.status.problem is None
        nursery.cancel_scope.cancel()


zones_probe = partial(Page, PLANT, AUDIT, after=START, through=START)
