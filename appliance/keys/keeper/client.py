# SPDX-License-Identifier: Apache-2.0
"""The keeper, as other processes reach it: a :class:`~appliance.keys.keeper.port.KeeperPort` over its unix socket."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import trio

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import BoxDescription, Certified, KeeperPort, KeeperStatus, Latched, Quote, SessionInfo
from appliance.keys.keeper.protocol import (
    ANSWER_BYTES,
    HEADER,
    Arguments,
    Certification,
    Credential,
    Document,
    Evidence,
    Named,
    Nonce,
    Nothing,
    Request,
    Sealing,
    Statement,
    body_length,
    parse_answer,
    render_request,
)
from appliance.keys.keeper.roles import Operation
from appliance.keys.tpm.public import Digest
from appliance.keys.unixsocket import address_of

DEADLINE_S: Final = 100.0
"""Longer than any call takes the keeper; only a keeper that is stopped takes as long."""
QUICK_S: Final = 10.0
"""For calls that need no TPM."""
_QUICK: Final = {Operation.STATUS, Operation.TIME_NONCE}
T = TypeVar("T")


class KeeperClient:
    """One connection for each call, so no call waits behind another of the same process.

    :param socket: the keeper's. :param deadline_s: a call's longest time.
    """

    def __init__(self, socket: Path, deadline_s: float = DEADLINE_S) -> None:
        self._socket = socket
        self._deadline_s = deadline_s

    async def status(self) -> KeeperStatus:
        """As the port says."""
        answer: KeeperStatus = await self._call(Operation.STATUS)
        return answer

    async def session(self, name: str) -> SessionInfo:
        """As the port says."""
        answer: SessionInfo = await self._call(Operation.SESSION, Named(name))
        return answer

    async def sign(self, statement: bytes) -> Signature:
        """As the port says."""
        answer: Signature = await self._call(Operation.SIGN, Statement(statement))
        return answer

    async def seal(self, name: str, secret: bytes) -> None:
        """As the port says."""
        await self._call(Operation.SEAL, Sealing(name, secret))

    async def unseal(self, name: str) -> bytes:
        """As the port says."""
        return bytes(await self._call(Operation.UNSEAL, Named(name)))

    async def quote(self, nonce: bytes) -> Quote:
        """As the port says."""
        answer: Quote = await self._call(Operation.QUOTE, Nonce(nonce))
        return answer

    async def latch(self, evidence: Digest) -> Latched:
        """As the port says."""
        answer: Latched = await self._call(Operation.LATCH, Evidence(evidence))
        return answer

    async def describe(self) -> BoxDescription:
        """As the port says."""
        answer: BoxDescription = await self._call(Operation.DESCRIBE)
        return answer

    async def certificate_request(self) -> bytes:
        """As the port says."""
        return bytes(await self._call(Operation.CERTIFICATE_REQUEST))

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        """As the port says."""
        return bytes(await self._call(Operation.ACTIVATE, Credential(credential, secret)))

    async def certify(self, nonce: bytes) -> Certified:
        """As the port says."""
        answer: Certified = await self._call(Operation.CERTIFY, Nonce(nonce))
        return answer

    async def install(self, device_ca: bytes) -> None:
        """As the port says."""
        await self._call(Operation.INSTALL, Document(device_ca))

    async def import_release(self, release: bytes) -> None:
        """As the port says."""
        await self._call(Operation.IMPORT_RELEASE, Document(release))

    async def time_nonce(self) -> bytes:
        """As the port says."""
        return bytes(await self._call(Operation.TIME_NONCE))

    async def set_time(self, token: bytes) -> int:
        """As the port says."""
        return int(await self._call(Operation.SET_TIME, Document(token)))

    async def hub_ca(self) -> bytes:
        """As the port says."""
        return bytes(await self._call(Operation.HUB_CA))

    async def certify_zone(self, zone: ZoneId, request: bytes) -> bytes:
        """As the port says."""
        return bytes(await self._call(Operation.CERTIFY_ZONE, Certification(zone, request)))

    async def _call(self, operation: Operation, arguments: Arguments = Nothing()) -> Any:  # noqa: B008 - it is frozen
        request = render_request(Request(operation, arguments))
        deadline_s = min(self._deadline_s, QUICK_S) if operation in _QUICK else self._deadline_s
        try:
            with trio.fail_after(deadline_s):
                return parse_answer(operation, await self._exchange(request))
        except trio.TooSlowError:
            raise UnavailableError(
                Reason.KEEPER_UNAVAILABLE, f"{operation}: no answer within {deadline_s:g} s"
            ) from None
        except (OSError, trio.BrokenResourceError) as error:
            raise UnavailableError(Reason.KEEPER_UNAVAILABLE, f"{self._socket}: {error}") from error

    async def _exchange(self, request: bytes) -> bytes:
        with address_of(self._socket) as address:
            stream = await trio.open_unix_socket(address)
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it may have said why before it left
                await stream.send_all(request)
            header = await _exactly(stream, HEADER.size)
            try:
                length = body_length(header, ANSWER_BYTES)
            except RefusedError as error:
                raise UnavailableError(Reason.KEEPER_UNAVAILABLE, f"{self._socket}: {error.detail}") from error
            return await _exactly(stream, length)


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(min(count - len(data), 65536))
        if not part:
            raise trio.BrokenResourceError("the keeper left in the middle of an answer")
        data += part
    return bytes(data)


def ask_keeper(socket: Path, question: Callable[[KeeperPort], Awaitable[T]], deadline_s: float = DEADLINE_S) -> T:
    """Ask the keeper from a program that has no loop of its own: ``ask_keeper(path, lambda keeper: keeper.status())``.

    :raises BsfgError: what the keeper says.
    """

    async def ask() -> T:
        return await question(KeeperClient(socket, deadline_s))

    return trio.run(ask)
