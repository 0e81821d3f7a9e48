# SPDX-License-Identifier: Apache-2.0
"""A peer in memory: the same stub, codec and errors as over the network, without the network.

Faults are asked for call by call, so a simulation can draw them from its seed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import trio
from google.protobuf.message import Message

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.ports import BoundaryPort
from appliance.boundary.reasons import Reason
from appliance.peer.connect import Method
from appliance.peer.faults import error_from_json, error_json
from appliance.peer.methods import peer_methods
from appliance.peer.stub import PeerStub
from appliance.peer.wire import parse_binary

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one call on its way; by default nothing."""

    delay_s: float = 0.0
    """Time the request takes to arrive."""
    request_lost: bool = False
    """It does not arrive; the caller hears ``link_down``."""
    answer_lost: bool = False
    """It is done, and the caller hears ``link_down`` all the same."""


NO_FAULT = Fault()


class FakePeer(PeerStub):
    """Calls a service in memory, as a proven peer of the given zone.

    :param faults: asked before each call, with the method's name.
    """

    def __init__(
        self, zone: ZoneId, service: BoundaryPort, faults: Callable[[str], Fault] = lambda _method: NO_FAULT
    ) -> None:
        super().__init__(zone)
        self._methods = peer_methods(service)
        self._faults = faults

    async def _call(
        self,
        method: str,
        request: Message,
        answer: type[M],
        *,
        wait_s: float = 0.0,
        page_field: int = 0,
    ) -> M:
        fault = self._faults(method)
        await trio.sleep(fault.delay_s)
        if fault.request_lost:
            raise UnavailableError(Reason.LINK_DOWN, "the request was lost (fake)")
        status, body = await self._serve(self._methods[method], request.SerializeToString())
        if fault.answer_lost:
            raise UnavailableError(Reason.LINK_DOWN, "the answer was lost (fake)")
        if status != 200:
            raise error_from_json(status, body)
        return parse_binary(answer, body, page_field)

    async def _serve(self, method: Method[ZoneId], body: bytes) -> tuple[int, bytes]:
        """What the server does with a request: an HTTP status and a body."""
        try:
            answer = await method.handle(self._zone, parse_binary(method.request, body, method.page_field))
        except BsfgError as error:
            return error_json(error)
        except Exception:  # noqa: BLE001 - as the server does
            return error_json(BsfgError(Reason.INTERNAL))
        return 200, answer.message.SerializeToString()
