# SPDX-License-Identifier: Apache-2.0
"""What every ledger does, on disk or in memory: the contract suite of :class:`LedgerPort`."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from appliance.boundary.names import Category, MessageId, ProducerId, ZoneId
from appliance.boundary.pages import Gap, GapReason, Position, Receipt, Signature
from appliance.boundary.ports import LedgerPort
from appliance.boundary.reasons import Reason
from appliance.boundary.records import (
    DUPLICATE,
    STORED,
    Incident,
    KnownId,
    LedgerLog,
    LedgerRow,
    LogId,
    gap_row,
    gone_row,
)

PLANT, HUB, OTHER = ZoneId("plant-a"), ZoneId("enterprise"), ZoneId("plant-b")
AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
PRESS, OVEN = ProducerId("press-4"), ProducerId("oven-1")
LOG, NEXT = LogId(PLANT, AUDIT, b"2" * 16), LogId(PLANT, AUDIT, b"1" * 16)
"""Two epochs of one log; the older has the higher id, so that order by id is no order by age."""

Receipts = Callable[[LogId, ZoneId], Awaitable[list[tuple[Receipt, Signature | None]]]]
Incidents = Callable[[], Awaitable[list[Incident]]]


@dataclass(frozen=True, slots=True)
class Books:
    """A ledger, and how a test reads what the port only writes."""

    ledger: LedgerPort
    receipts: Receipts
    incidents: Incidents


def row(
    offset: int, *, to: str = "all", message_id: str = "", outcome: str = STORED, producer: ProducerId = PRESS
) -> LedgerRow:
    """A row whose digest and head are made of its offset."""
    digest = hashlib.sha256(b"%d" % offset).digest()
    return LedgerRow(
        offset, offset, to, producer, MessageId(message_id or f"m-{offset}"), digest, at(offset).head, outcome
    )


def rows(first: int, last: int) -> list[LedgerRow]:
    """A run of rows to everyone."""
    return [row(offset) for offset in range(first, last + 1)]


def at(offset: int) -> Position:
    """A position with a head of its own."""
    return Position(offset, hashlib.sha256(b"head %d" % offset).digest())


def receipt(log: LogId, offset: int, receiver: ZoneId = HUB, value: bytes = b"s") -> Receipt:
    """A receipt that nobody checks here."""
    return Receipt(log.origin, receiver, log.category, log.epoch, at(offset), 5, Signature(value, b"c"))


async def taken(ledger: LedgerPort, *ids: str) -> dict[str, tuple[LogId, int, bool]]:
    """Which ids of PRESS are taken: by which log and offset, and whether the fact is still there."""
    found = await ledger.known(PLANT, [(PRESS, MessageId(name)) for name in ids])
    return {key[1]: (held.log, held.offset, held.live) for key, held in found.items()}


class AccountsContract:
    """What is in which log; a subclass gives ``books``, with a new ledger."""

    @pytest.fixture
    def ledger(self, books: Books) -> LedgerPort:
        """The ledger itself."""
        return books.ledger

    async def test_a_new_ledger_knows_nothing(self, ledger: LedgerPort) -> None:
        """Nothing is invented for a log it never saw."""
        assert await ledger.log(LOG) is None
        assert await ledger.logs(PLANT, AUDIT) == []
        assert await ledger.rows(LOG, 0, 10) == []
        assert await ledger.known(PLANT, [(PRESS, MessageId("m-1"))]) == {}
        assert await ledger.known(PLANT, []) == {}
        assert await ledger.served_gaps(LOG, HUB) == []
        assert await ledger.last_receipt(LOG, HUB) is None

    async def test_an_account_grows(self, ledger: LedgerPort) -> None:
        """Rows come back as they were entered; through and sequence are those of the last entry."""
        await ledger.record(LOG, rows(1, 3), at(3), 3)
        assert await ledger.log(LOG) == LedgerLog(LOG, at(3), 3, None)
        await ledger.record(LOG, rows(4, 5), at(5), 7)
        assert await ledger.log(LOG) == LedgerLog(LOG, at(5), 7, None)
        assert await ledger.rows(LOG, 0, 10) == rows(1, 5)
        await ledger.record(LOG, [], at(9), 8)  # a page whose facts are another reader's moves the position alone
        assert await ledger.log(LOG) == LedgerLog(LOG, at(9), 8, None)
        assert await ledger.rows(LOG, 0, 10) == rows(1, 5)

    async def test_entering_again_changes_nothing(self, ledger: LedgerPort) -> None:
        """After an answer was lost the same page is entered once more, with more behind it."""
        await ledger.record(LOG, rows(1, 3), at(3), 3)
        await ledger.record(LOG, rows(2, 5), at(5), 5)
        assert await ledger.rows(LOG, 0, 10) == rows(1, 5)
        assert await taken(ledger, "m-2", "m-5") == {"m-2": (LOG, 2, True), "m-5": (LOG, 5, True)}

    async def test_rows_are_read_in_parts(self, ledger: LedgerPort) -> None:
        """Behind an offset, not more than asked for, of this log alone."""
        await ledger.record(LOG, rows(1, 9), at(9), 9)
        await ledger.record(NEXT, [row(4, message_id="other")], at(4), 4)
        assert await ledger.rows(LOG, 3, 2) == rows(4, 5)
        assert await ledger.rows(LOG, 8, 100) == rows(9, 9)
        assert await ledger.rows(LOG, 9, 100) == []
        assert await ledger.rows(NEXT, 0, 100) == [row(4, message_id="other")]

    async def test_a_reader_sees_its_rows_and_everyones(self, ledger: LedgerPort) -> None:
        """The limit counts what it may see; ranges that are gone are for everyone, diverted facts for nobody."""
        addressees = ["enterprise", "plant-b", "all"]
        entered = [row(n, to=addressees[n % 3]) for n in range(1, 13)]
        entered += [gone_row(15, at(15).head), gap_row(Gap(16, 17, GapReason.RETENTION), 13, at(17).head)]
        entered += [row(18, to="", outcome="malformed_json")]
        await ledger.record(LOG, entered, at(18), 13)
        theirs = [held for held in entered if held.to in ("enterprise", "all")]
        assert await ledger.rows(LOG, 0, 100, HUB) == theirs
        assert await ledger.rows(LOG, 3, 2, HUB) == [held for held in theirs if held.offset > 3][:2]
        assert await ledger.rows(LOG, 0, 100) == entered

    async def test_epochs_are_told_oldest_first(self, ledger: LedgerPort) -> None:
        """By when they were entered first; other categories and zones are other logs."""
        await ledger.record(LOG, rows(1, 1), at(1), 1)
        await ledger.record(NEXT, rows(1, 2), at(2), 2)
        await ledger.record(LogId(PLANT, TELEMETRY, LOG.epoch), [], at(7), 7)
        await ledger.record(LogId(HUB, AUDIT, LOG.epoch), [], at(8), 8)
        await ledger.record(LOG, rows(2, 3), at(3), 3)  # does not make it the younger one
        assert await ledger.logs(PLANT, AUDIT) == [LedgerLog(LOG, at(3), 3), LedgerLog(NEXT, at(2), 2)]

    async def test_a_retired_account_stays_readable(self, ledger: LedgerPort) -> None:
        """It says how much of its log is still there; another epoch is not touched."""
        await ledger.record(LOG, rows(1, 3), at(3), 3)
        await ledger.record(NEXT, [], at(1), 1)
        await ledger.retire(LOG, kept=0)
        old, new = await ledger.logs(PLANT, AUDIT)
        assert (old, old.retired) == (LedgerLog(LOG, at(3), 3, 0), True)
        assert (new, new.retired) == (LedgerLog(NEXT, at(1), 1, None), False)
        assert await ledger.rows(LOG, 0, 10) == rows(1, 3)

    async def test_truncating_forgets_what_is_behind(self, ledger: LedgerPort) -> None:
        """Rows and ids; the log may go on in another way from there."""
        await ledger.record(LOG, rows(1, 5), at(5), 5)
        await ledger.truncate(LOG, at(2), 2)
        assert await ledger.log(LOG) == LedgerLog(LOG, at(2), 2)
        assert await ledger.rows(LOG, 0, 10) == rows(1, 2)
        assert await taken(ledger, "m-1", "m-2", "m-3", "m-5") == {"m-1": (LOG, 1, True), "m-2": (LOG, 2, True)}
        await ledger.record(LOG, [row(3, message_id="m-5")], at(3), 3)
        assert await taken(ledger, "m-3", "m-5") == {"m-5": (LOG, 3, True)}

    async def test_truncating_leaves_other_logs(self, ledger: LedgerPort) -> None:
        """Also where their offsets are higher."""
        await ledger.record(LOG, rows(1, 5), at(5), 5)
        await ledger.record(NEXT, [row(9, message_id="x")], at(9), 9)
        await ledger.truncate(LOG, at(0), 0)
        assert await taken(ledger, "m-1", "m-5", "x") == {"x": (NEXT, 9, True)}
        assert len(await ledger.rows(NEXT, 0, 10)) == 1


class IdsContract:
    """What an id means, over all epochs and categories of a zone."""

    @pytest.fixture
    def ledger(self, books: Books) -> LedgerPort:
        """The ledger itself."""
        return books.ledger

    async def test_an_id_is_known_with_its_digest(self, ledger: LedgerPort) -> None:
        """In whatever category; of this zone and this producer."""
        entered = row(7, message_id="m")
        log = LogId(PLANT, TELEMETRY, LOG.epoch)
        await ledger.record(log, [entered], at(7), 7)
        key, stranger = (PRESS, MessageId("m")), (OVEN, MessageId("m"))
        assert await ledger.known(PLANT, [key, stranger]) == {key: KnownId(entered.digest, log, 7, live=True)}
        assert await ledger.known(HUB, [key]) == {}

    @pytest.mark.parametrize("outcome", [DUPLICATE, "malformed_json", GapReason.RETENTION])
    async def test_only_stored_facts_take_ids(self, ledger: LedgerPort, outcome: str) -> None:
        """A duplicate's id is held by the fact it repeats; a diverted fact holds none."""
        await ledger.record(LOG, [row(1, message_id="m", outcome=outcome)], at(1), 1)
        assert await taken(ledger, "m") == {}

    async def test_a_live_log_keeps_its_ids(self, ledger: LedgerPort) -> None:
        """Whoever enters the same id later does not get it."""
        await ledger.record(LOG, rows(1, 2), at(2), 2)
        await ledger.record(NEXT, [row(1, message_id="m-2"), row(2, message_id="new")], at(2), 2)
        assert await taken(ledger, "m-2", "new") == {"m-2": (LOG, 2, True), "new": (NEXT, 2, True)}

    async def test_a_retired_log_keeps_ids_of_what_is_still_there(self, ledger: LedgerPort) -> None:
        """Up to ``kept``; what is behind it is known as lost, until another copy takes its place."""
        await ledger.record(LOG, rows(1, 3), at(3), 3)
        await ledger.retire(LOG, kept=2)
        assert await taken(ledger, "m-2", "m-3") == {"m-2": (LOG, 2, True), "m-3": (LOG, 3, False)}
        again = [replace(row(n + 1), offset=n, seq=n) for n in (1, 2)]  # the same facts, at other offsets
        await ledger.record(NEXT, again, at(2), 2)
        assert await taken(ledger, "m-2", "m-3") == {"m-2": (LOG, 2, True), "m-3": (NEXT, 2, True)}
        key = (PRESS, MessageId("m-3"))
        assert await ledger.known(PLANT, [key]) == {key: KnownId(row(3).digest, NEXT, 2, live=True)}

    async def test_many_ids_at_once(self, ledger: LedgerPort) -> None:
        """As many as the largest page has, half of them known."""
        await ledger.record(LOG, rows(1, 500), at(500), 500)
        keys = [(PRESS, MessageId(f"m-{n}")) for n in range(1, 1001)]
        assert set(await ledger.known(PLANT, keys)) == set(keys[:500])


class ProofsContract:
    """Gaps that were told, receipts, incidents."""

    @pytest.fixture
    def ledger(self, books: Books) -> LedgerPort:
        """The ledger itself."""
        return books.ledger

    async def test_gaps_are_kept_for_each_reader(self, ledger: LedgerPort) -> None:
        """What one was told, another was not; nor is it told of another log."""
        first, second = Gap(2, 5, GapReason.RETENTION), Gap(9, 9, GapReason.LOG_LOST)
        await ledger.put_served_gaps(LOG, HUB, 0, [first])
        await ledger.put_served_gaps(LOG, HUB, 5, [second])
        assert await ledger.served_gaps(LOG, HUB) == [first, second]
        assert await ledger.served_gaps(LOG, OTHER) == []
        assert await ledger.served_gaps(NEXT, HUB) == []

    async def test_gaps_behind_the_place_are_void(self, ledger: LedgerPort) -> None:
        """The reader never got that page: what is told now counts; what ends there stays, other readers' too."""
        held = [Gap(1, 2, GapReason.RETENTION), Gap(4, 6, GapReason.RETENTION), Gap(8, 9, GapReason.RETENTION)]
        await ledger.put_served_gaps(LOG, HUB, 0, held)
        await ledger.put_served_gaps(LOG, OTHER, 0, held)
        await ledger.put_served_gaps(NEXT, HUB, 0, held)
        wider = Gap(3, 9, GapReason.LOG_LOST)
        await ledger.put_served_gaps(LOG, HUB, 2, [wider])
        assert await ledger.served_gaps(LOG, HUB) == [held[0], wider]
        await ledger.put_served_gaps(LOG, HUB, 5, [])  # a gap that reaches behind the place is void as a whole
        assert await ledger.served_gaps(LOG, HUB) == [held[0]]
        assert await ledger.served_gaps(LOG, OTHER) == held
        assert await ledger.served_gaps(NEXT, HUB) == held

    async def test_the_newest_receipt_is_the_last_one_put(self, ledger: LedgerPort) -> None:
        """For each receiver and log; a receiver that was restored may stand further back than before."""
        await ledger.put_receipt(receipt(LOG, 9), None)
        await ledger.put_receipt(receipt(LOG, 4), None)
        await ledger.put_receipt(receipt(LOG, 7, OTHER), None)
        await ledger.put_receipt(receipt(NEXT, 1), None)
        assert await ledger.last_receipt(LOG, HUB) == receipt(LOG, 4)
        assert await ledger.last_receipt(LOG, OTHER) == receipt(LOG, 7, OTHER)
        assert await ledger.last_receipt(NEXT, HUB) == receipt(NEXT, 1)
        assert await ledger.last_receipt(NEXT, OTHER) is None

    async def test_a_receipt_gets_its_countersignature(self, books: Books) -> None:
        """It stays one receipt; those before it stay what they were."""
        counter = Signature(b"counter", b"certificate")
        await books.ledger.put_receipt(receipt(LOG, 2), None)
        await books.ledger.put_receipt(receipt(LOG, 5), None)
        await books.ledger.put_receipt(receipt(LOG, 5), counter)
        assert await books.receipts(LOG, HUB) == [(receipt(LOG, 2), None), (receipt(LOG, 5), counter)]
        assert await books.ledger.last_receipt(LOG, HUB) == receipt(LOG, 5)

    async def test_a_receipt_given_again_replaces_the_older(self, books: Books) -> None:
        """The receiver signed the same position twice: the newer signature counts, and there is one receipt."""
        again = replace(receipt(LOG, 5, value=b"again"), committed_at_unix_ms=6)
        await books.ledger.put_receipt(receipt(LOG, 5), None)
        await books.ledger.put_receipt(again, None)
        assert await books.receipts(LOG, HUB) == [(again, None)]

    async def test_incidents_are_kept_in_order(self, books: Books) -> None:
        """The same twice is two incidents."""
        lost = Incident(Reason.LOG_LOST, "audit: facts 1 to 3", {"first": "1", "last": "3"})
        trimmed = Incident(Reason.TRIMMED, "audit")
        for incident in (lost, trimmed, lost):
            await books.ledger.note(incident)
        assert await books.incidents() == [lost, trimmed, lost]


class LedgerContract(AccountsContract, IdsContract, ProofsContract):
    """All of it."""
