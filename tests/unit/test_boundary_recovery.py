# SPDX-License-Identifier: Apache-2.0
"""What the boundary makes of logs and ledgers that do not fit together any more: cases that the simulation found."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from functools import partial

import trio
import trio.testing

from appliance.boundary.claims import IdClaims
from appliance.boundary.errors import PositionError, RefusedError
from appliance.boundary.messages import Message, parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import START, FetchRequest, GapReason, Page, PageAnswer, Receipt
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, ZonePolicy
from appliance.boundary.producing import AppendOutcome, ProducedFact
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident
from appliance.boundary.sink import Sink
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from tests.fakes.keys import FakeKeys
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
AUDIT = Category("audit")
BOTH = PeerPolicy(frozenset([AUDIT]), frozenset([AUDIT]))


def fact(number: int, content: int | None = None) -> Message:
    """A small fact of the plant for everybody."""
    envelope = {"message_id": f"m{number}", "from_zone": "plant-a-bsfg", "to_zone": "all", "produced_at_unix_ms": 1}
    values = {"subject": "s", "predicate": "p", "object_json": {"n": number if content is None else content}}
    payload = json.dumps({"envelope": envelope, "fact": values}).encode()
    return parse_produced(ProducedFact("facts.audit.plant-a.all.press.x", payload))


class Zones:
    """The plant's facts and the hub's forward buffer, in memory; either zone can be started anew."""

    def __init__(self) -> None:
        self.disks = {zone: FakeDisk(dice=random.Random(zone)) for zone in (PLANT, HUB)}
        self.ledgers = {zone: FakeLedger() for zone in (PLANT, HUB)}
        self.incidents: list[Incident] = []
        self.faults = Faults(random.Random(0))
        self.start()

    def start(self) -> None:
        """Both zones begin another life with what they keep."""
        categories, note = {AUDIT: CategoryPolicy()}, self.incidents.append
        logs = {zone: FakeLogs(zone, self.disks[zone], self.faults) for zone in (PLANT, HUB)}
        self.store = StoreBuffer(PLANT, AUDIT, logs[PLANT], self.ledgers[PLANT], IdClaims(), note=note)
        self.source = Source(
            ZonePolicy(PLANT, categories, {HUB: BOTH}),
            {AUDIT: self.store},
            self.ledgers[PLANT],
            FakeKeys(PLANT, [PLANT, HUB]),
            note=note,
        )
        self.sink = Sink(
            ZonePolicy(HUB, categories, {PLANT: BOTH}),
            logs[HUB],
            self.ledgers[HUB],
            FakeKeys(HUB, [PLANT, HUB]),
            IdClaims(),
            wall_clock_ms=lambda: 0,
            note=note,
        )

    async def produce(self, *numbers: int) -> None:
        """Store facts in the plant."""
        await self.store.commit([[fact(number)] for number in numbers])

    async def cross(self) -> PageAnswer:
        """Carry over what is there; the newest answer."""
        answer = await self.sink.append_page(PLANT, probe(b""))
        epoch, at = answer.epoch, answer.frontier
        for _ in range(10):
            try:
                page = await self.source.fetch_page(HUB, FetchRequest(AUDIT, epoch, at))
            except PositionError as error:
                epoch, at = error.epoch, (await self.sink.append_page(PLANT, probe(error.epoch))).frontier
                continue
            if page.is_probe:
                return await self.sink.append_page(PLANT, probe(page.epoch))
            answer = await self.sink.append_page(PLANT, page)
            epoch, at = answer.epoch, answer.frontier
        raise AssertionError("it does not come to an end")

    def received(self) -> list[str]:
        """The ids of the facts in the hub's logs, in order."""
        return [
            record.headers["Bsfg-Id"]
            for stream in self.disks[HUB].streams.values()
            for record in stream.records
            if record.is_fact
        ]

    def reasons(self) -> list[Reason]:
        """What operators were told."""
        return [incident.reason for incident in self.incidents]


probe = partial(Page, PLANT, AUDIT, after=START, through=START)


async def test_nothing_conflicts_with_what_a_full_log_refused() -> None:
    """A conflict is final, and the fact beside it was not stored; what is stored already stands."""
    zones = Zones()
    await zones.produce(1)
    zones.store.refusal = RefusedError(Reason.BUFFER_FULL, "")
    units = [[fact(1)], [fact(1, 7)], [fact(2)], [fact(2, 7)], [fact(3), fact(1, 7)], [fact(4), fact(1)]]
    full, stored = (AppendOutcome.INVALID, Reason.BUFFER_FULL), (AppendOutcome.DUPLICATE, None)
    conflict, beside = (AppendOutcome.CONFLICT, Reason.CONFLICTING_DUPLICATE), (AppendOutcome.NOT_STORED, None)
    results = await zones.store.commit(units)
    assert [[(result.outcome, result.reason) for result in unit] for unit in results] == [
        [stored],
        [conflict],
        [full],
        [full],
        [beside, conflict],
        [full, stored],
    ]


async def test_the_end_of_a_log_is_told_although_its_first_page_failed() -> None:
    """The log is known by then, and yet nothing was received from another before it."""
    zones = Zones()
    await zones.produce(1, 2)
    await zones.sink.append_page(PLANT, probe(b""))
    page = await zones.source.fetch_page(HUB, FetchRequest(AUDIT))
    await zones.sink.append_page(PLANT, probe(page.epoch))  # a page of which the log took nothing leaves the same
    zones.start()
    await zones.sink.append_page(PLANT, probe(b""))
    await zones.sink.append_page(PLANT, page)
    zones.disks[PLANT].streams.clear()
    zones.ledgers[PLANT] = FakeLedger()
    sink = zones.sink
    zones.start()
    zones.sink = sink
    await zones.produce(3)
    newer = await zones.source.fetch_page(HUB, FetchRequest(AUDIT))
    await zones.sink.append_page(PLANT, newer)
    told = [incident.facts for incident in zones.incidents if incident.reason is Reason.LOG_DIVERGED]
    assert [(facts["ended"], facts["after"]) for facts in told] == [(page.epoch.hex(), "2")]


async def test_the_last_word_on_a_lost_log_ends_no_other() -> None:
    """It comes after the log that is in use now, to a receiver that has nothing of either."""
    zones = Zones()
    await zones.produce(1, 2)
    ledger = copy.deepcopy(zones.ledgers[PLANT]._accounts), dict(zones.ledgers[PLANT]._ids)
    zones.disks[PLANT].streams.clear()
    zones.ledgers[PLANT] = FakeLedger()
    zones.start()
    await zones.sink.append_page(PLANT, probe(b""))
    empty = await zones.source.fetch_page(HUB, FetchRequest(AUDIT))
    await zones.sink.append_page(PLANT, probe(empty.epoch))
    zones.ledgers[PLANT]._accounts, zones.ledgers[PLANT]._ids = ledger
    zones.start()
    await zones.sink.append_page(PLANT, probe(b""))
    last_word = await zones.source.fetch_page(HUB, FetchRequest(AUDIT))
    assert [gap.reason for gap in last_word.gaps] == [GapReason.LOG_LOST]
    await zones.sink.append_page(PLANT, last_word)
    assert Reason.LOG_DIVERGED not in zones.reasons()
    assert Reason.LOG_LOST in zones.reasons()


async def test_a_position_that_was_marked_twice_is_still_the_same_log() -> None:
    """The ledger heard of the first marker only; ids of facts that retention has dropped must stay known."""
    zones = Zones()
    await zones.produce(1, 2)
    await zones.cross()
    (account,) = zones.ledgers[HUB]._accounts.values()
    before = account.state
    (stream,) = zones.disks[HUB].streams.values()
    stream.drop(1)
    (marker,) = [record for record in stream.records if not record.is_fact]
    stream.records.remove(marker)
    stream.last_seq += 1
    stream.records.append(replace(marker, seq=stream.last_seq))
    zones.start()
    await zones.cross()
    assert len(account.rows) == 2
    assert account.state.through == before.through
    assert [key for _, key in zones.ledgers[HUB]._ids] == [fact(1).key, fact(2).key]


async def test_facts_of_an_older_copy_are_known_although_the_account_is_younger() -> None:
    """The hub lost everything, was told that the log is lost, and then got its old log back."""
    zones = Zones()
    await zones.produce(1)
    await zones.cross()
    old = zones.disks[HUB].copy()
    (stream,) = old.streams.values()
    assert not stream.records.pop().is_fact  # the copy is from before the position was marked
    stream.last_seq -= 1
    zones.disks[PLANT].streams.clear()  # its log is lost, its ledger is not
    zones.disks[HUB].streams.clear()
    zones.ledgers[HUB] = FakeLedger()
    zones.start()
    await zones.produce(1)  # the producer sends again what was lost
    await zones.cross()
    zones.disks[HUB].restore(old)
    zones.start()
    await zones.cross()
    assert zones.received() == ["m1"]


async def test_a_copy_with_more_than_a_rebuilt_ledger_knows_is_served() -> None:
    """The ledger was rebuilt after retention, and then a copy from before came back."""
    zones = Zones()
    await zones.produce(1, 2, 3)
    old = zones.disks[PLANT].copy()
    (stream,) = zones.disks[PLANT].streams.values()
    stream.forget(stream.records[:2])
    zones.ledgers[PLANT] = FakeLedger()
    zones.start()
    await zones.cross()
    assert zones.received() == ["m3"]
    zones.disks[PLANT].restore(old)
    zones.start()
    await zones.cross()
    assert sorted(zones.received()) == ["m1", "m2", "m3"]


async def test_of_two_receipts_at_once_the_newer_stays(autojump_clock: trio.testing.MockClock) -> None:
    """However the two calls overtake each other while they are signed and kept."""
    for seed in range(20):
        zones = Zones()
        await zones.produce(1, 2, 3)
        pages = []
        at = START
        for _ in range(3):
            pages.append(await zones.source.fetch_page(HUB, FetchRequest(AUDIT, after=at, max_facts=1)))
            at = pages[-1].through
        keys = FakeKeys(HUB, [HUB])
        zones.ledgers[PLANT]._faults = Faults(random.Random(seed), slow=0.5, delay_s=1.0)
        async with trio.open_nursery() as nursery:
            for page in pages:
                receipt = Receipt(PLANT, HUB, AUDIT, page.epoch, page.through, 0)
                signature = await keys.sign(receipt.statement())
                nursery.start_soon(zones.source.confirm_receipt, HUB, replace(receipt, signature=signature))
        newest = await zones.ledgers[PLANT].last_receipt(zones.store.log_id(pages[0].epoch), HUB)
        assert newest is not None
        assert newest.through == pages[-1].through
