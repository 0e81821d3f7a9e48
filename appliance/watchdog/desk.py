# SPDX-License-Identifier: Apache-2.0
"""The watchdog's desk: a unix socket where root and the console ask how it stands, and hand in requests.

One request is one line of JSON, and so is its answer; then the connection may ask again. Who asks is the kernel's word
(SO_PEERCRED), not the caller's. So many callers at once, so many bytes, so many seconds: nobody keeps the watchdog
busy, which does its own work in other tasks. A release is not trusted for coming from root: the TPM checks both
operators' signatures.

========== ================= =============================================================
``op``     besides           answer
========== ================= =============================================================
``status``                   what the status document says
``enter``  ``reason``        the same, when the uplink is dark
``release`` ``document``     the same, when the TPM took the release; it stays dark until a restart
``evidence``                 the same, when the evidence of this quarantine is laid out to be carried away
========== ================= =============================================================
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.release import MAXIMUM_BYTES
from appliance.keys.tpm.public import Digest
from appliance.keys.unixsocket import address_of, callers, listening
from appliance.watchdog.quarantine.runner import Quarantine
from appliance.watchdog.quarantine.states import Darkness

SOCKET: Final = Path("/run/bsfg/watchdog/watchdog.sock")
REQUEST_BYTES: Final = 4 * MAXIMUM_BYTES
"""A release as a JSON text, and room for every byte of it to be escaped."""
ANSWER_BYTES: Final = 1 << 20
CALLERS: Final = 8
IDLE_S: Final = 10.0
"""How long a caller may take for a request, and for taking its answer."""
CALL_S: Final = 120.0
"""How long a request may take; a release waits for the TPM."""

_log = logging.getLogger(__name__)


class Served(Protocol):
    """The watchdog, as the desk needs it."""

    quarantine: Quarantine

    def values(self) -> dict[str, Any]:
        """What the status document says."""
        ...

    def enter(self, reason: str) -> None:
        """Put the box into quarantine. :raises RefusedError: ``bad_input``."""
        ...


class Desk:
    """Serves a watchdog.

    :param users: whose processes may ask; everybody else is sent away.
    :param lay_out: lays evidence out (:class:`appliance.watchdog.evidence.outgoing.Outgoing`); ``None``: nobody does.
    """

    def __init__(
        self,
        watchdog: Served,
        path: Path,
        users: frozenset[int],
        lay_out: Callable[[Digest], Awaitable[None]] | None = None,
    ) -> None:
        self._watchdog, self._path, self._users, self._lay_out = watchdog, path, users, lay_out
        self._callers = 0

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when callers can connect."""
        with listening(self._path) as listener:
            task_status.started()
            async with trio.open_nursery() as nursery:
                async for connection, uid in callers(listener):
                    nursery.start_soon(self._serve, connection, uid)

    async def _serve(self, connection: trio.socket.SocketType, uid: int) -> None:
        stream = trio.SocketStream(connection)
        self._callers += 1
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                if uid not in self._users:
                    _log.warning("uid %d asks the watchdog; it may not", uid)
                    await _send(stream, _refusal(DeniedError(Reason.CALLER_DENIED, f"uid {uid}")))
                elif self._callers > CALLERS:
                    await _send(stream, _refusal(UnavailableError(Reason.BUSY, "too many callers at once")))
                else:
                    await self._talk(stream, uid)
        finally:
            self._callers -= 1
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)

    async def _talk(self, stream: trio.SocketStream, uid: int) -> None:
        """One request after the other; after a line that is none we end it."""
        while True:
            try:
                line = await read_line(stream, REQUEST_BYTES, IDLE_S)
                if line is None:
                    return
                request = parse_request(line)
            except RefusedError as error:
                await _send(stream, _refusal(error))
                return
            _log.info("uid %d: %s", uid, request["op"])
            await _send(stream, await self._answer(request, uid))

    async def _answer(self, request: Mapping[str, str], uid: int) -> bytes:
        call: Callable[[Mapping[str, str], int], Awaitable[None]] = _OPERATIONS[request["op"]]
        try:
            with trio.fail_after(CALL_S):
                await call(self, request, uid)  # type: ignore[call-arg, arg-type]
            return json.dumps({"ok": True, "result": self._watchdog.values()}).encode() + b"\n"
        except BsfgError as error:
            return _refusal(error)
        except trio.TooSlowError:
            return _refusal(UnavailableError(Reason.TPM_BUSY, f"{request['op']}: no answer within {CALL_S:g} s"))
        except Exception:  # noqa: BLE001 - a defect in one request must not end the watchdog
            _log.exception("%s", request["op"])
            return _refusal(UnavailableError(Reason.INTERNAL, f"{request['op']}; the watchdog's log says more"))

    async def _status(self, _request: Mapping[str, str], _uid: int) -> None:
        await trio.lowlevel.checkpoint()

    async def _enter(self, request: Mapping[str, str], uid: int) -> None:
        await trio.lowlevel.checkpoint()
        self._watchdog.enter(f"{request['reason']} (uid {uid})" if request["reason"].strip() else "")

    async def _release(self, request: Mapping[str, str], _uid: int) -> None:
        try:
            document = request["document"].encode("ascii")
        except UnicodeEncodeError as error:
            raise RefusedError(Reason.BAD_RELEASE, "not ASCII") from error
        await self._watchdog.quarantine.release(document)

    async def _evidence(self, _request: Mapping[str, str], _uid: int) -> None:
        quarantine = self._watchdog.quarantine
        if quarantine.darkness is not Darkness.QUARANTINED:
            raise RefusedError(Reason.NOT_QUARANTINED)
        evidence = quarantine.awaits_release()
        if evidence is None or self._lay_out is None:
            raise UnavailableError(Reason.NOT_READY, "the evidence is not gathered yet")
        await self._lay_out(evidence)


_OPERATIONS: Final[Mapping[str, Any]] = {
    "status": Desk._status,
    "enter": Desk._enter,
    "release": Desk._release,
    "evidence": Desk._evidence,
}
FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "status": frozenset({"op"}),
    "enter": frozenset({"op", "reason"}),
    "release": frozenset({"op", "document"}),
    "evidence": frozenset({"op"}),
}
"""What each request consists of; all of it is text."""


def parse_request(line: bytes) -> dict[str, str]:
    """Read a request. :raises RefusedError: ``bad_request``: it is none."""
    try:
        values = json.loads(line)
        if not isinstance(values, dict) or set(values) != FIELDS[values["op"]]:
            raise ValueError("other fields")
        if not all(isinstance(value, str) for value in values.values()):
            raise ValueError("not text")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RefusedError(Reason.BAD_REQUEST, f"{type(error).__name__}: {error}"[:200]) from error
    return values


async def read_line(stream: trio.SocketStream, limit: int, patience_s: float) -> bytes | None:
    """A line, without its end; ``None``: the other side is done, or silent for too long.

    :raises RefusedError: ``bad_request``: it is longer than the limit, or was cut off.
    """
    data = bytearray()
    with trio.move_on_after(patience_s):
        while True:
            part = await stream.receive_some(65536)
            data += part
            line, end, rest = bytes(data).partition(b"\n")
            if len(line) > limit or rest or (not part and data):
                raise RefusedError(Reason.BAD_REQUEST, "a request is one line, and not a long one")
            if end:
                return line
            if not part:
                return None
    if data:
        raise RefusedError(Reason.BAD_REQUEST, f"not whole after {patience_s:g} s")
    return None


def _refusal(error: BsfgError) -> bytes:
    return json.dumps({"ok": False, "reason": error.reason, "detail": error.detail}).encode() + b"\n"


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    with trio.fail_after(IDLE_S):
        await stream.send_all(data)


# -- the other end -----------------------------------------------------------------------------------------------------


async def ask(path: Path, **request: str) -> dict[str, Any]:
    """Ask a watchdog; what it answers.

    :raises UnavailableError: ``watchdog_unavailable``: nobody answers. :raises BsfgError: what it says no with.
    """
    try:
        with trio.fail_after(CALL_S + IDLE_S), address_of(path) as address:
            connection = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                await connection.connect(address)
            except BaseException:
                connection.close()
                raise
            async with trio.SocketStream(connection) as stream:
                with suppress(trio.BrokenResourceError):  # whoever is sent away may be told so before he has asked
                    await stream.send_all(json.dumps(request).encode() + b"\n")
                line = await read_line(stream, ANSWER_BYTES, CALL_S)
        values = json.loads(line or b"")
    except (OSError, trio.TooSlowError, trio.BrokenResourceError, ValueError, RefusedError) as error:
        raise UnavailableError(Reason.WATCHDOG_UNAVAILABLE, f"{path}: {error}") from error
    if values.get("ok") is True:
        result: dict[str, Any] = values["result"]
        return result
    raise _error(values)


def _error(values: Mapping[str, Any]) -> BsfgError:
    """The error that the watchdog told."""
    try:
        reason = Reason(values["reason"])
    except (ValueError, KeyError):
        return UnavailableError(Reason.WATCHDOG_UNAVAILABLE, "it answers what this program does not understand")
    kinds = {Reason.CALLER_DENIED: DeniedError, Reason.BAD_RELEASE: DeniedError, Reason.BAD_INPUT: RefusedError}
    kind = kinds.get(reason, UnavailableError)
    return kind(reason, str(values.get("detail", ""))[:1000])
