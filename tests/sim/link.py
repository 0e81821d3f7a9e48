# SPDX-License-Identifier: Apache-2.0
"""The simulated boundary: calls from one machine to the other, with everything a network does to them.

A request or an answer may be lost or late, a request may be delivered twice, concurrent requests overtake each other,
the link may be cut in the middle of a call. The pages that cross may be torn (then they must be refused whole) and
carry facts that somebody spoiled (then those must become dead letters).
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import trio

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Countersigned, Fact, FetchRequest, Page, PageAnswer, Position, Receipt, Signature
from appliance.boundary.reasons import Reason
from tests.sim.machine import GoneError, Machine, Process

if TYPE_CHECKING:
    from tests.sim.world import World

T = TypeVar("T")

CALL_S = 8.0
"""How long a caller waits for an answer, beyond a long poll."""


class Link:
    """The one connection between the zones."""

    def __init__(self) -> None:
        self.cuts = 0
        self._calls: dict[trio.CancelScope, None] = {}

    @property
    def is_cut(self) -> bool:
        """Whether nothing gets through now."""
        return self.cuts > 0

    def cut(self) -> None:
        """End every call in flight; new ones fail until :meth:`heal`."""
        self.cuts += 1
        for scope in list(self._calls):
            scope.cancel()

    def heal(self) -> None:
        """The end of one cut."""
        self.cuts -= 1

    async def carry(self, limit_s: float, work: Callable[[], Awaitable[T]]) -> T:
        """Do something that needs the link. :raises UnavailableError: it was cut, or took too long."""
        if self.is_cut:
            await trio.lowlevel.checkpoint()
            raise UnavailableError(Reason.LINK_DOWN, "simulated: cut")
        with trio.move_on_after(limit_s) as scope:
            self._calls[scope] = None
            try:
                return await work()
            finally:
                del self._calls[scope]
        raise UnavailableError(Reason.PEER_TIMEOUT, "simulated: no answer")


class RemotePeer:
    """A zone as the dialling side sees it: both ports over the link."""

    def __init__(self, world: World, caller: Machine, server: Machine) -> None:
        self._world, self._caller, self._server = world, caller, server

    async def fetch_page(self, reader: ZoneId, request: FetchRequest) -> Page:
        """See :class:`appliance.boundary.ports.SourcePort`."""

        async def fetch(peer: Process) -> Page:
            return await peer.source.fetch_page(reader, request)

        return self._tear(self._wear(await self._call("fetch", fetch, request.wait_ms / 1000)), 5)

    async def confirm_receipt(self, reader: ZoneId, receipt: Receipt) -> Signature:
        """See :class:`appliance.boundary.ports.SourcePort`."""

        async def confirm(peer: Process) -> Signature:
            return await peer.source.confirm_receipt(reader, receipt)

        return await self._call("confirm", confirm)

    async def append_page(self, sender: ZoneId, page: Page, countersigned: Countersigned | None = None) -> PageAnswer:
        """See :class:`appliance.boundary.ports.SinkPort`."""
        sent = self._tear(self._wear(page), 6)

        async def append(peer: Process) -> PageAnswer:
            return await peer.sink.append_page(sender, sent, countersigned)

        return await self._call("append", append)

    # -- what the network does ---------------------------------------------------------------------------------------

    async def _call(self, what: str, work: Callable[[Process], Awaitable[T]], wait_s: float = 0.0) -> T:
        world, plan = self._world, self._world.plan
        world.trace(f"{self._caller.zone} calls {what}")

        async def exchange() -> T:
            await self._travel()
            if world.dice.random() < plan.link_doubled:
                world.book.count("doubled request")
                world.nursery.start_soon(self._again, work)
            process = self._server.process
            if process is None:
                raise UnavailableError(Reason.LINK_DOWN, "simulated: connection refused")
            try:
                answer = await process.call(work)
            except GoneError as error:
                raise UnavailableError(Reason.LINK_DOWN, "simulated: connection lost") from error
            await self._travel()
            return answer

        return await world.link.carry(wait_s + CALL_S, exchange)

    async def _travel(self) -> None:
        world, plan = self._world, self._world.plan
        if plan.link_delay_s and world.dice.random() < 0.3 and not world.healed:
            await trio.sleep(world.dice.uniform(0, plan.link_delay_s))
        if world.dice.random() < plan.link_lost and not world.healed:
            world.book.count("lost on the link")
            await trio.sleep_forever()

    async def _again(self, work: Callable[[Process], Awaitable[object]]) -> None:
        """The same request is delivered a second time; nobody waits for the answer."""
        await trio.sleep(self._world.dice.choice((0.0, 0.0, 0.1, 2.0)))
        process = self._server.process
        if process is None:
            return
        try:
            await process.call(work)
        except Exception as error:  # noqa: BLE001 - the answer to a stray copy is nobody's
            self._world.trace(f"stray copy: {type(error).__name__}")

    def _wear(self, page: Page) -> Page:
        """Spoil the facts that are to be spoiled on the way; the same ones in the same way each time."""
        spoil = self._world.book.spoil_on_the_way
        if not self._world.book.has_spoiled or not page.facts:
            return page
        return replace(page, facts=tuple(spoil(fact) for fact in page.facts))

    def _tear(self, page: Page, ways: int) -> Page:
        """Now and then a page arrives that is not what its sender made of it."""
        world = self._world
        if world.healed or not page.facts or world.dice.random() >= world.plan.torn:
            return page
        world.book.count("torn page")
        facts, dice = list(page.facts), world.dice
        index = dice.randrange(len(facts))
        match dice.randrange(ways):
            case 0:
                del facts[index]
            case 1:
                facts[index] = replace(facts[index], prev=facts[index].prev + 1)
            case 2:
                facts[index] = replace(facts[index], offset=facts[index].offset + 1)
            case 3:
                facts.insert(index, _alien(facts[index]))
            case 4:
                facts.reverse()
                if len(facts) == 1:
                    facts[0] = _alien(facts[0])
            case _:
                return replace(page, through=Position(page.through.offset, bytes(32)))
        return replace(page, facts=tuple(facts))


def _alien(fact: Fact) -> Fact:
    """A fact that was never in the log, with a digest that fits its bytes."""
    message = fact.message.replace(b'"n":', b'"N":')
    return replace(fact, message=message, digest=hashlib.sha256(message).digest())
