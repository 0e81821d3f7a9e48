# SPDX-License-Identifier: Apache-2.0
"""What every peer does, over the network or in memory: the contract suite of :class:`BoundaryPort` on the wire."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
import trio

from appliance.boundary.errors import (
    BsfgError,
    DeniedError,
    IntegrityError,
    PositionError,
    RefusedError,
    UnavailableError,
)
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import (
    MAX_PAGE_BYTES,
    START,
    Countersigned,
    Fact,
    FetchRequest,
    Gap,
    GapReason,
    Page,
    PageAnswer,
    Position,
    Receipt,
    Signature,
)
from appliance.boundary.ports import BoundaryPort
from appliance.boundary.reasons import Reason

T = TypeVar("T")

PLANT = ZoneId("plant-a")
HUB = ZoneId("enterprise")
AUDIT = Category("audit")
EPOCH = bytes(range(16))
HEAD = hashlib.sha256(b"head").digest()


def make_fact(offset: int, message: bytes = b"{}") -> Fact:
    """A fact of plausible shape."""
    digest = hashlib.sha256(message).digest()
    return Fact(offset, offset - 1, f"facts.{AUDIT}.{PLANT}.all.press-4.done", message, digest)


def make_page(count: int = 3, *, size: int = 2, after: Position = START) -> Page:
    """A page of facts in order."""
    facts = tuple(make_fact(after.offset + 1 + i, bytes(size)) for i in range(count))
    through = Position(after.offset + count, HEAD) if count else after
    return Page(PLANT, AUDIT, EPOCH, after, through, facts, pending=7)


def make_receipt() -> Receipt:
    """A signed receipt; signatures are not checked on the wire."""
    return Receipt(PLANT, HUB, AUDIT, EPOCH, Position(3, HEAD), 1_700_000_000_000, Signature(b"value", b"certificate"))


@dataclass
class RecordingService:
    """A service that notes who asked what, and answers what the test laid out (values, errors, or a function)."""

    calls: list[tuple[str, ZoneId, Any]] = field(default_factory=list)
    page: Page | BsfgError | Callable[[FetchRequest], Awaitable[Page]] = field(default_factory=make_page)
    answer: PageAnswer | BaseException = field(default=PageAnswer(EPOCH, Position(3, HEAD)))
    signature: Signature | BsfgError = field(default=Signature(b"counter", b"certificate"))
    cancelled: int = 0

    async def fetch_page(self, reader: ZoneId, request: FetchRequest) -> Page:
        """Note and answer."""
        self.calls.append(("fetch", reader, request))
        await trio.lowlevel.checkpoint()
        try:
            if callable(self.page):
                return await self.page(request)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        return _given(self.page)

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """Note and answer."""
        self.calls.append(("append", sender, (page, countersigned)))
        await trio.lowlevel.checkpoint()
        return _given(self.answer)

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """Note and answer."""
        self.calls.append(("confirm", reader, receipt))
        await trio.lowlevel.checkpoint()
        return _given(self.signature)


def _given(value: T | BaseException) -> T:
    if isinstance(value, BaseException):
        raise value
    return value


ERRORS: list[BsfgError] = [
    RefusedError(Reason.BAD_RECEIPT, "no such log"),
    DeniedError(Reason.CATEGORY_DENIED, "telemetry to plant-a"),
    PositionError(Reason.OUT_OF_ORDER, "stand elsewhere", epoch=EPOCH, offset=41, head=HEAD),
    PositionError(Reason.LOG_DIVERGED, epoch=EPOCH),
    PositionError(Reason.TOO_MANY_EPOCHS),
    UnavailableError(Reason.BROKER_UNAVAILABLE, "nats-facts"),
    UnavailableError(Reason.BUFFER_FULL),
    IntegrityError(Reason.LOG_DAMAGED, "offset 7"),
]


class PeerContract:
    """Tests that every implementation passes; a subclass gives ``peer``, which speaks for zone PLANT."""

    @pytest.fixture
    def service(self) -> RecordingService:
        """What stands behind the peer."""
        return RecordingService()

    async def test_a_page_arrives_whole(self, peer: BoundaryPort, service: RecordingService) -> None:
        """Facts, gaps and receipt, bit by bit, from the proven zone; and so does the answer."""
        page = make_page(2)
        gap = Gap(3, 9, GapReason.RETENTION)
        page = replace(page, gaps=(gap,), through=Position(9, HEAD))
        countersigned = Countersigned(make_receipt(), Signature(b"counter", b"certificate"))
        service.answer = PageAnswer(EPOCH, Position(9, HEAD), 500, 250, replace(make_receipt(), signature=None))
        assert await peer.append_page(PLANT, page, countersigned) == service.answer
        assert service.calls == [("append", PLANT, (page, countersigned))]

    async def test_a_probe_asks_where_the_receiver_stands(self, peer: BoundaryPort, service: RecordingService) -> None:
        """Nothing in it, nothing lost of it; a receiver without an epoch says so."""
        service.answer = PageAnswer(b"", START)
        assert await peer.append_page(PLANT, make_page(0)) == service.answer
        assert service.calls == [("append", PLANT, (make_page(0), None))]

    async def test_a_fetch_brings_a_page(self, peer: BoundaryPort, service: RecordingService) -> None:
        """The request arrives as it was made, the page as it was served."""
        request = FetchRequest(AUDIT, EPOCH, Position(3, HEAD), 10, 20_000, 0)
        service.page = make_page(3, after=Position(3, HEAD))
        assert await peer.fetch_page(PLANT, request) == service.page
        assert service.calls == [("fetch", PLANT, request)]

    async def test_a_receipt_is_countersigned(self, peer: BoundaryPort, service: RecordingService) -> None:
        """Receipt there, signature back."""
        assert await peer.confirm_receipt(PLANT, make_receipt()) == service.signature
        assert service.calls == [("confirm", PLANT, make_receipt())]

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error.reason))
    async def test_errors_keep_their_class(
        self, peer: BoundaryPort, service: RecordingService, error: BsfgError
    ) -> None:
        """Class, reason and frontier survive the way."""
        service.answer = error
        with pytest.raises(type(error)) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == error.reason
        assert error.detail in caught.value.detail
        if isinstance(error, PositionError):
            assert isinstance(caught.value, PositionError)
            assert (caught.value.epoch, caught.value.offset, caught.value.head) == (
                error.epoch,
                error.offset,
                error.head,
            )

    async def test_a_defect_is_the_other_sides_trouble(self, peer: BoundaryPort, service: RecordingService) -> None:
        """An exception nobody foresaw says ``internal``, tells nothing of the inside, and may be tried again."""
        service.answer = KeyError("secret")
        with pytest.raises(UnavailableError) as caught:
            await peer.append_page(PLANT, make_page())
        assert caught.value.reason == Reason.INTERNAL
        assert "secret" not in str(caught.value)

    async def test_bad_content_arrives(self, peer: BoundaryPort, service: RecordingService) -> None:
        """One bad fact must not stop a page: the boundary's rules divert it, not the wire."""
        facts = (
            replace(make_fact(1), subject="facts.>"),
            replace(make_fact(2), message=b"\xff not JSON"),
            replace(make_fact(3), digest=bytes(32)),
            replace(make_fact(4), message=bytes(300 * 1024)),
        )
        page = replace(make_page(4), facts=facts)
        await peer.append_page(PLANT, page)
        assert service.calls == [("append", PLANT, (page, None))]

    @pytest.mark.parametrize(
        "damage",
        [
            {"facts": (make_fact(2), make_fact(1))},
            {"facts": (make_fact(1), make_fact(1))},
            {"facts": (make_fact(9),)},
            {"epoch": b"short"},
            {"through": Position(3, b"")},
            {"gaps": (Gap(2, 3, GapReason.RETENTION),)},
            {"facts": tuple(make_fact(i) for i in range(1, 1002)), "through": Position(1001, HEAD)},
            {"facts": (make_fact(1, bytes(MAX_PAGE_BYTES + 1)),)},
        ],
        ids="-".join,
    )
    async def test_bad_shape_is_refused(
        self, peer: BoundaryPort, service: RecordingService, damage: dict[str, Any]
    ) -> None:
        """On its way in it never reaches the service; on its way out it is the peer's fault."""
        page = replace(make_page(), **damage)
        with pytest.raises(RefusedError):
            await peer.append_page(PLANT, page)
        assert service.calls == []
        service.page = page
        with pytest.raises(UnavailableError) as caught:
            await peer.fetch_page(PLANT, FetchRequest(AUDIT))
        assert caught.value.reason == Reason.PEER_FAULT

    async def test_nobody_calls_for_another_zone(self, peer: BoundaryPort, service: RecordingService) -> None:
        """The certificate would prove it wrong, so it does not even leave."""
        for call in (
            peer.append_page(HUB, make_page()),
            peer.fetch_page(HUB, FetchRequest(AUDIT)),
            peer.confirm_receipt(HUB, make_receipt()),
        ):
            with pytest.raises(RefusedError) as caught:
                await call
            assert caught.value.reason == Reason.ZONE_MISMATCH
        assert service.calls == []

    async def test_the_largest_page_fits(self, peer: BoundaryPort, service: RecordingService) -> None:
        """1000 facts, 4 MiB, in both directions."""
        page = make_page(1000, size=MAX_PAGE_BYTES // 1000)
        service.page = page
        await peer.append_page(PLANT, page)
        assert await peer.fetch_page(PLANT, FetchRequest(AUDIT)) == page
        assert service.calls[0] == ("append", PLANT, (page, None))

    async def test_a_waiting_fetch_stops_nothing(self, peer: BoundaryPort, service: RecordingService) -> None:
        """Pages go out while a long poll waits; it ends when there is something."""
        there = trio.Event()

        async def wait(_request: FetchRequest) -> Page:
            await there.wait()
            return make_page(1)

        service.page = wait
        pages = []

        async def fetch() -> None:
            pages.append(await peer.fetch_page(PLANT, FetchRequest(AUDIT, wait_ms=20_000)))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fetch)
                for _ in range(5):
                    await peer.append_page(PLANT, make_page())
                assert pages == []
                there.set()
        assert pages == [make_page(1)]

    async def test_a_cancelled_fetch_ends_on_the_other_side(
        self, peer: BoundaryPort, service: RecordingService
    ) -> None:
        """Nobody waits for a page that nobody wants; and other calls go on."""
        started = trio.Event()

        async def wait(_request: FetchRequest) -> Page:
            started.set()
            await trio.sleep_forever()
            raise AssertionError

        service.page = wait
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.fetch_page, PLANT, FetchRequest(AUDIT, wait_ms=20_000))
                await started.wait()
                nursery.cancel_scope.cancel()
            while not service.cancelled:  # noqa: ASYNC110 - it happens behind a network
                await trio.sleep(0.01)
        await peer.append_page(PLANT, make_page())
