# SPDX-License-Identifier: Apache-2.0
"""The keeper's unix socket: so many callers at most, each known by its uid, each call with a deadline."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from typing import Any, Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.keeper.protocol import (
    HEADER,
    REQUEST_BYTES,
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
    parse_request,
    render_error,
    render_result,
)
from appliance.keys.keeper.roles import (
    Operation,
    Role,
    check_operation,
    check_secret,
    check_session,
    check_statement,
)
from appliance.keys.unixsocket import callers, listening

CALLERS: Final = 64
CALLERS_OF_ONE_USER: Final = 24
"""Connections at once; one user cannot take them all from the others."""
IDLE_S: Final = 30.0
"""How long a connection may be silent between calls."""
FRAME_S: Final = 5.0
"""How long a frame may take, from its first byte to its last."""
CALL_S: Final = 90.0
"""No call takes longer, whatever happens: the TPM's own deadlines are shorter."""

_log = logging.getLogger(__name__)


class KeeperServer:
    """Serves a keeper on the socket of its configuration."""

    def __init__(self, config: KeeperConfig, keeper: KeeperPort) -> None:
        self._config = config
        self._keeper = keeper
        self._callers: Counter[int] = Counter()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when callers can connect."""
        with listening(self._config.socket) as listener:
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for connection, uid in callers(listener):
                    nursery.start_soon(self._serve, connection, uid)

    async def _serve(self, connection: trio.socket.SocketType, uid: int) -> None:
        stream = trio.SocketStream(connection)
        self._callers[uid] += 1
        try:
            full = self._callers[uid] > CALLERS_OF_ONE_USER or self._callers.total() > CALLERS
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                if full:
                    error = UnavailableError(Reason.BUSY, "too many callers at once")
                    with trio.fail_after(FRAME_S / 10):
                        await stream.send_all(render_error(error))
                else:
                    await self._talk(stream, self._config.callers.get(uid, frozenset()), uid)
        finally:
            self._callers[uid] -= 1
            if not self._callers[uid]:
                del self._callers[uid]
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.SocketStream, roles: frozenset[Role], uid: int) -> None:
        """One call after the other, until the caller ends it; after a frame that is none, we do."""
        while True:
            try:
                body = await _frame(stream)
                if body is None:
                    return
                request = parse_request(body)
            except RefusedError as error:
                await _send(stream, render_error(error))
                return
            await _send(stream, await self._answer(request, roles, uid))

    async def _answer(self, request: Request, roles: frozenset[Role], uid: int) -> bytes:
        try:
            check(request, roles)
            with trio.fail_after(CALL_S):
                return render_result(request.operation, await perform(self._keeper, request))
        except BsfgError as error:
            if error.reason is Reason.CALLER_DENIED:
                _log.warning("uid %d: %s", uid, error)
            return render_error(error)
        except trio.TooSlowError:
            return render_error(UnavailableError(Reason.TPM_BUSY, f"{request.operation}: {CALL_S:g} s"))
        except Exception:  # noqa: BLE001 - a defect in one call must not leave all others without keys
            _log.exception("%s failed", request.operation)
            return render_error(UnavailableError(Reason.INTERNAL, f"{request.operation}; the keeper's log says more"))


def check(request: Request, roles: frozenset[Role]) -> None:
    """:raises DeniedError: ``caller_denied``. :raises RefusedError: ``bad_input``: a name or statement is none."""
    match request:
        case Request(Operation.SESSION, Named(name)):
            check_session(roles, name)
        case Request(Operation.SIGN, Statement(statement)):
            check_statement(roles, statement)
        case Request(Operation.SEAL, Sealing(name, _)) | Request(Operation.UNSEAL, Named(name)):
            check_secret(roles, name)
        case Request(operation, _):
            check_operation(roles, operation)


async def perform(keeper: KeeperPort, request: Request) -> Any:
    """Make a call. :raises BsfgError: what the keeper says."""
    call = getattr(keeper, request.operation)
    return await call(*_values(request.arguments))


def _values(arguments: Arguments) -> tuple[Any, ...]:
    match arguments:
        case Nothing():
            return ()
        case Named(value) | Statement(value) | Nonce(value) | Evidence(value) | Document(value):
            return (value,)
        case Sealing(first, second) | Credential(first, second) | Certification(first, second):
            return (first, second)


async def _frame(stream: trio.SocketStream) -> bytes | None:
    """The next frame's body; ``None``: the caller is done, or silent for too long. :raises RefusedError."""
    with trio.move_on_after(IDLE_S) as idle:
        first = await stream.receive_some(1)
    if idle.cancelled_caught or not first:
        return None
    with trio.fail_after(FRAME_S):
        header = first + await _exactly(stream, HEADER.size - 1)
        return await _exactly(stream, body_length(header, REQUEST_BYTES))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some(count - len(data))
        if not part:
            raise trio.BrokenResourceError("the caller left in the middle of a frame")
        data += part
    return bytes(data)


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(FRAME_S):
        await stream.send_all(data)
