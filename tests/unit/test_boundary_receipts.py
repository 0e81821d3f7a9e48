# SPDX-License-Identifier: Apache-2.0
"""Receipts beside the pages: a TPM that signs slowly, not at all, or later, and facts that cross all the same."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from appliance.boundary.claims import IdClaims
from appliance.boundary.crossing import Crossing
from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.messages import parse_produced
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import START, FetchRequest, Page, PageAnswer, Receipt, Signature
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, ZonePolicy
from appliance.boundary.producing import ProducedFact
from appliance.boundary.reasons import Reason
from appliance.boundary.records import Incident, LogId
from appliance.boundary.sink import Sink
from appliance.boundary.source import Source
from appliance.boundary.store import StoreBuffer
from appliance.boundary.transfer import Backoff, Step
from tests.fakes.keys import FakeKeys
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
AUDIT = Category("audit")
TPM_S = 1.2
"""Twelve commands of 100 ms."""
IDLE_S = 5.0
"""How long a crossing waits for facts before it asks for a receipt."""

Clock = trio.testing.MockClock


LATCHED = DeniedError(Reason.KEY_LATCHED, "counter 4")
AWAY = UnavailableError(Reason.KEEPER_UNAVAILABLE, "no answer")
NEW = UnavailableError(Reason.NOT_ENROLLED, "")


class SlowKeys:
    """Keys in a slow TPM, which may be latched. ``most``: signatures that were ever under way at once."""

    def __init__(self, zone: ZoneId) -> None:
        self.signs_for_s = TPM_S
        self.refusal: BsfgError | None = None
        self.statements: list[bytes] = []
        self.most = self.now = 0
        self._keys = FakeKeys(zone, [PLANT, HUB])
        self.verify = self._keys.verify

    async def sign(self, statement: bytes) -> Signature:
        """See the port."""
        self.statements.append(statement)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.sleep(self.signs_for_s)
        finally:
            self.now -= 1
        if self.refusal is not None:
            raise self.refusal
        return await self._keys.sign(statement)


class Zones:
    """The plant's facts and the hub's forward buffer, in memory, with one crossing between them."""

    def __init__(self) -> None:
        faults, both = Faults(random.Random(0)), PeerPolicy(frozenset([AUDIT]), frozenset([AUDIT]))
        categories = {AUDIT: CategoryPolicy()}
        here, there = (ZonePolicy(z, categories, {o: both}) for z, o in ((PLANT, HUB), (HUB, PLANT)))
        self.ledgers = {zone: FakeLedger() for zone in (PLANT, HUB)}
        self.keys = {zone: SlowKeys(zone) for zone in (PLANT, HUB)}
        self.incidents: list[Incident] = []
        self.disk = FakeDisk()
        ledger, quiet = self.ledgers[PLANT], self.incidents.append
        self.store = StoreBuffer(PLANT, AUDIT, FakeLogs(PLANT, FakeDisk(), faults), ledger, IdClaims(), note=quiet)
        self.source = Source(here, {AUDIT: self.store}, ledger, self.keys[PLANT], note=quiet)
        self.sink = Sink(
            there,
            FakeLogs(HUB, self.disk, faults),
            self.ledgers[HUB],
            self.keys[HUB],
            IdClaims(),
            wall_clock_ms=lambda: int(trio.current_time() * 1000),
            note=quiet,
            backoff=Backoff(dice=random.Random(1)),
        )
        self.crossing = Crossing(
            "push audit", AUDIT, PLANT, HUB, self.source, self.sink, backoff=Backoff(dice=random.Random(2))
        )
        self._number = 0

    async def produce(self, count: int = 1) -> None:
        """New facts of the plant."""
        units = []
        for _ in range(count):
            self._number += 1
            envelope = {
                "message_id": f"m{self._number}",
                "from_zone": "plant-a-bsfg",
                "to_zone": "all",
                "produced_at_unix_ms": 1,
            }
            content = {"subject": "s", "predicate": "p", "object_json": {"n": self._number}}
            payload = json.dumps({"envelope": envelope, "fact": content}).encode()
            units.append([parse_produced(ProducedFact("facts.audit.plant-a.all.press.x", payload))])
        await self.store.commit(units)

    def received(self) -> int:
        """Facts in the hub's log."""
        return sum(record.is_fact for stream in self.disk.streams.values() for record in stream.records)

    def has(self, count: int) -> bool:
        """Whether the hub has so many facts."""
        return self.received() == count

    def receipts(self, zone: ZoneId) -> list[tuple[Receipt, Signature | None]]:
        """What a zone's ledger holds, oldest first."""
        return [entry for held in self.ledgers[zone]._receipts.values() for entry in held]

    async def push_page(self) -> PageAnswer:
        """Carry one page over by hand."""
        located = await self.sink.append_page(PLANT, probe(b""))
        page = await self.source.fetch_page(HUB, FetchRequest(AUDIT, located.epoch, located.frontier))
        return await self.sink.append_page(PLANT, page)


probe = partial(Page, PLANT, AUDIT, after=START, through=START)


@asynccontextmanager
async def crossing(zones: Zones) -> AsyncIterator[None]:
    """Everything runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.sink.run)
        nursery.start_soon(zones.crossing.run)
        yield
        nursery.cancel_scope.cancel()


async def until(condition: Callable[[], object], within_s: float) -> float:
    """Wait for something to be true; how long it took."""
    began = trio.current_time()
    while not condition():
        await trio.sleep(0.005)
        assert trio.current_time() - began < within_s, "too late"
    return trio.current_time() - began


async def test_no_page_waits_for_a_signature(autojump_clock: Clock) -> None:
    """Each fact is at the hub at once, also while receipt and countersignature are being made."""
    zones = Zones()
    async with crossing(zones):
        await until(lambda: zones.crossing.status.step is Step.FETCH, 1)
        for number in range(1, 200):
            await zones.produce()
            assert await until(partial(zones.has, number), 0.1) < 0.01
            await trio.sleep(0.13)  # so that facts come at every moment of a signature
    assert len(zones.keys[HUB].statements) >= 2
    assert len(zones.keys[PLANT].statements) >= 2


async def test_an_idle_log_is_confirmed_soon(autojump_clock: Clock) -> None:
    """Two signatures by slow TPMs after the last fact, little more; then both zones hold both."""
    zones = Zones()
    async with crossing(zones):
        await zones.produce(7)
        await until(lambda: zones.crossing.status.confirmed == 7, 2 * TPM_S + 6)
        await until(lambda: zones.receipts(HUB)[-1][1] is not None, 1)
        assert [zones.receipts(zone)[-1][0].through.offset for zone in (PLANT, HUB)] == [7, 7]
        assert zones.receipts(PLANT)[-1] == zones.receipts(HUB)[-1]
        signed = len(zones.keys[HUB].statements)
        await trio.sleep(600)
        assert len(zones.keys[HUB].statements) == signed  # nothing new, nothing to sign


async def test_a_receipt_that_is_being_signed_is_asked_for_soon(autojump_clock: Clock) -> None:
    """Not only when the next long poll is over; and what is not due before is asked for at idle."""
    zones = Zones()
    async with crossing(zones):
        await zones.produce()
        await until(lambda: zones.crossing.status.confirmed == 1, 10)
        await trio.sleep(1)
        await zones.produce()
        took = await until(lambda: zones.crossing.status.confirmed == 2, 20)
        assert IDLE_S + 2 * TPM_S < took < IDLE_S + 2 * TPM_S + 2


async def test_a_receipt_is_tried_again_without_being_asked_for(autojump_clock: Clock) -> None:
    """Nobody may ask for a long time; then it is there."""
    zones = Zones()
    zones.keys[HUB].refusal = AWAY
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.sink.run)
        await zones.produce()
        await zones.push_page()
        await trio.sleep(60)
        assert zones.receipts(HUB) == []
        zones.keys[HUB].refusal = None
        await trio.sleep(20)
        assert [receipt.through.offset for receipt, _ in zones.receipts(HUB)] == [1]
        nursery.cancel_scope.cancel()


async def test_one_signature_at_a_time_for_what_came_meanwhile(autojump_clock: Clock) -> None:
    """However many pages are committed while one is under way, the next receipt is for all of them."""
    zones = Zones()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.sink.run)
        await zones.produce()
        assert (await zones.push_page()).receipt is None
        await trio.sleep(TPM_S / 2)
        for _ in range(50):
            await zones.produce()
            await zones.push_page()
        await trio.sleep(2 * TPM_S)
        assert [receipt.through.offset for receipt, _ in zones.receipts(HUB)] == [1, 51]
        assert (zones.keys[HUB].most, len(zones.keys[HUB].statements)) == (1, 2)
        nursery.cancel_scope.cancel()


async def test_under_load_a_receipt_comes_every_ten_seconds(autojump_clock: Clock) -> None:
    """And each of them once with a page; a probe tells the newest again."""
    zones, told = Zones(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.sink.run)
        located = await zones.sink.append_page(PLANT, probe(b""))
        frontier = located.frontier
        epoch = located.epoch
        for _ in range(350):
            await zones.produce()
            page = await zones.source.fetch_page(HUB, FetchRequest(AUDIT, epoch, frontier))
            answer = await zones.sink.append_page(PLANT, page)
            epoch, frontier = answer.epoch, answer.frontier
            told += [answer.receipt] if answer.receipt is not None else []
            await trio.sleep(0.1)
        assert [receipt.through.offset // 100 for receipt in told] == [0, 1, 2, 3]
        answer = await zones.sink.append_page(PLANT, probe(epoch))
        assert answer.receipt == told[-1]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("zone", [PLANT, HUB])
@pytest.mark.parametrize("refusal", [LATCHED, AWAY, NEW], ids=lambda error: error.reason)
async def test_facts_cross_while_a_key_cannot_be_used(zone: ZoneId, refusal: BsfgError, autojump_clock: Clock) -> None:
    """For an hour; the status says so; an operator is told once; when the key can be used again all is confirmed."""
    zones = Zones()
    zones.keys[zone].refusal = refusal
    async with crossing(zones):
        for _ in range(60):
            await zones.produce()
            await trio.sleep(60)
        assert zones.received() == 60
        assert zones.crossing.status.problem is None
        problem = zones.sink.receipt_problem if zone == HUB else zones.crossing.status.receipt_problem
        assert problem is refusal
        assert [i.reason for i in zones.incidents] == ([refusal.reason] if zone == HUB else [])
        assert zones.crossing.status.confirmed == 0
        assert 60 < len(zones.keys[zone].statements) < 1000  # tried again and again, and not all the time
        zones.keys[zone].refusal = None
        await until(lambda: zones.crossing.status.confirmed == 60, 45)
        await until(lambda: list(zones.crossing.status.problems()) == [], 10)
        assert zones.sink.receipt_problem is None


async def test_a_refused_key_does_not_slow_facts_down(autojump_clock: Clock) -> None:
    """Not by a pause of the crossing, and not by one of the signer."""
    zones = Zones()
    for keys in zones.keys.values():
        keys.refusal = LATCHED
    async with crossing(zones):
        await until(lambda: zones.crossing.status.step is Step.FETCH, 1)
        for number in range(1, 100):
            await zones.produce()
            assert await until(partial(zones.has, number), 0.1) < 0.01
            await trio.sleep(0.37)


async def test_cancelled_while_signing(autojump_clock: Clock) -> None:
    """Nothing is kept of it; whoever runs it again signs for what is there then."""
    zones = Zones()
    await zones.produce()
    await zones.push_page()
    with trio.move_on_after(TPM_S / 2):
        await zones.sink.run()
    assert zones.keys[HUB].now == 0
    assert zones.receipts(HUB) == []
    await zones.produce()
    await zones.push_page()
    with trio.move_on_after(2 * TPM_S):
        await zones.sink.run()
    assert [receipt.through.offset for receipt, _ in zones.receipts(HUB)] == [2]


async def test_a_log_that_was_set_back_meanwhile_gets_no_receipt(autojump_clock: Clock) -> None:
    """What the signature says is no longer true when it comes."""
    zones = Zones()
    await zones.produce(2)
    await zones.push_page()
    (log,) = [LogId(PLANT, AUDIT, account.epoch) for account in zones.ledgers[HUB]._accounts]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(zones.sink.run)
        await trio.sleep(TPM_S / 2)
        (stream,) = zones.disk.streams.values()
        del stream.records[1:]
        stream.last_seq = 1
        zones.sink._buffers[log].unsettle()
        await trio.sleep(TPM_S)
        assert len(zones.keys[HUB].statements) >= 1
        assert zones.receipts(HUB) == []
        nursery.cancel_scope.cancel()


async def test_what_a_reader_confirmed_before_it_was_set_back_counts_no_more(autojump_clock: Clock) -> None:
    """A receipt that comes late says nothing of what the reader has now; one for what it got again does."""
    zones = Zones()
    await zones.produce(3)
    async with crossing(zones):
        await until(lambda: zones.crossing.status.confirmed == 3, 10)
    old = zones.receipts(PLANT)[-1][0]
    first = await zones.source.fetch_page(HUB, FetchRequest(AUDIT, old.epoch, START, max_facts=1))
    assert zones.incidents[-1].reason is Reason.PEER_REGRESSED
    await zones.source.confirm_receipt(HUB, old)
    assert zones.source._regressed
    newer = Receipt(PLANT, HUB, AUDIT, old.epoch, first.through, 5)
    signature = await zones.keys[HUB].sign(newer.statement())
    await zones.source.confirm_receipt(HUB, Receipt(PLANT, HUB, AUDIT, old.epoch, first.through, 5, signature))
    assert zones.receipts(PLANT)[-1][0].through.offset == 1
    assert not zones.source._regressed
