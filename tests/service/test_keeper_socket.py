# SPDX-License-Identifier: Apache-2.0
"""The keeper's socket under callers that are strangers, slow, many, or talk nonsense."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys import unixsocket
from appliance.keys.keeper import client, server
from appliance.keys.keeper.client import KeeperClient, ask_keeper
from appliance.keys.keeper.keys import KeeperKeys
from appliance.keys.keeper.port import KeeperState
from appliance.keys.keeper.protocol import (
    ANSWER_BYTES,
    CALLS,
    HEADER,
    Named,
    Nothing,
    Request,
    body_length,
    parse_answer,
    render_request,
)
from appliance.keys.keeper.roles import Operation
from appliance.keys.keeper.server import CALLERS, CALLERS_OF_ONE_USER, KeeperServer
from appliance.keys.registry import Registry
from appliance.keys.time_token import HubTrust
from appliance.keys.unixsocket import address_of, listening
from tests.fakes.keeper import FakeKeeper
from tests.keepers import ALL_ROLES, BUILDER, HUB, OPERATORS, PLANT, Site, running_keeper
from tests.tpm import software_tpm
from tests.unit.test_keeper_protocol import ARGUMENTS

NOBODY = 65534
STATUS = render_request(Request(Operation.STATUS, Nothing()))
# It becomes another user, who is in the socket's group, after it has loaded what it needs.
STRANGER = """
import json, os, socket, struct, sys
os.setgroups([])
os.setresuid(65534, 65534, 65534)
path, *frames = json.load(sys.stdin)
for frame in frames:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(path)
        caller.sendall(bytes.fromhex(frame))
        caller.shutdown(socket.SHUT_WR)
        print(b"".join(iter(lambda: caller.recv(65536), b"")).hex())
"""


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that another user can reach."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def as_nobody(socket: Path, requests: list[Request]) -> list[Any]:
    """What that user is answered: values, or reasons."""
    frames = [render_request(request).hex() for request in requests]
    done = subprocess.run(
        [sys.executable, "-I", "-c", STRANGER],
        input=json.dumps([str(socket), *frames]),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found: list[Any] = []
    for request, line in zip(requests, done.stdout.split(), strict=True):
        answer = bytes.fromhex(line)
        try:
            found.append(parse_answer(request.operation, answer[4 : 4 + body_length(answer[:4], ANSWER_BYTES)]))
        except BsfgError as error:
            found.append(error.reason)
    return found


# Peer credentials are the kernel's word, so another user is needed; the table of roles is tested for everybody.
@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
async def test_a_user_may_do_what_its_role_may_and_no_more(tmp_path: Path, public_folder: Path) -> None:
    """Every call, by a process of another user: without a role, and with one."""
    requests = [Request(operation, ARGUMENTS[takes]) for operation, (takes, _) in CALLS.items()]
    with software_tpm(tmp_path / "tpm") as tpm:
        site = Site(public_folder / "site", tpm.tcti)
        with running_keeper(site) as keeper:
            await site.enrol()
            await site.tell_time()
            before = await site.client.status()
            assert as_nobody(site.socket, requests) == [Reason.CALLER_DENIED] * len(requests)
            after = await site.client.status()
            assert (after.state, after.counter) == (KeeperState.READY, before.counter)
            keeper.stop()
            site.write(tpm.tcti, {os.getuid(): ALL_ROLES, NOBODY: ["control"]})
            keeper.start()
            answers = dict(
                zip((str(each.operation) for each in requests), as_nobody(site.socket, requests), strict=True)
            )
            allowed = {name for name, answer in answers.items() if answer is not Reason.CALLER_DENIED}
            assert allowed == {"status"}
            wanted = [Request(Operation.SESSION, Named(name)) for name in ("control", "agent")]
            session, denied = as_nobody(site.socket, wanted)
            assert session == await site.client.session("control")
            assert denied is Reason.CALLER_DENIED


class Served:
    """A server in this process, in front of a keeper in memory."""

    def __init__(self, site: Site, keeper: FakeKeeper) -> None:
        self.site = site
        self.keeper = keeper
        self.client = KeeperClient(site.socket, deadline_s=5)

    async def connect(self) -> trio.SocketStream:
        """A connection of somebody who speaks for himself."""
        with address_of(self.site.socket) as address:
            return await trio.open_unix_socket(address)


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """Ready to be asked."""
    site = Site(tmp_path / "site", "swtpm:")
    keeper = FakeKeeper(tmp_path, PLANT, HubTrust(HUB, site.hub_ca.certificate), OPERATORS, BUILDER.public_key())
    async with trio.open_nursery() as nursery:
        await nursery.start(KeeperServer(site.config, keeper).run)
        yield Served(site, keeper)
        nursery.cancel_scope.cancel()
    assert not site.socket.exists()


async def everything(stream: trio.SocketStream) -> bytes:
    """What is answered until the server ends the connection."""
    found = bytearray()
    with trio.fail_after(10):
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):  # it did not read all that was sent
                async for part in stream:
                    found += part
    return bytes(found)


def reason_of(answer: bytes) -> Reason:
    """The reason of an answer that is an error."""
    with pytest.raises(BsfgError) as caught:
        parse_answer(Operation.STATUS, answer[4 : 4 + HEADER.unpack(answer[:4])[0]])
    return caught.value.reason


async def test_nonsense_is_answered_once_and_hung_up_on(served: Served) -> None:
    """Random bytes, wrong lengths, other protocols; the next caller is served."""
    numbers = random.Random(3)
    nonsense = [numbers.randbytes(numbers.randrange(4, 200)) for _ in range(100)]
    nonsense += [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(4),
        b"\xff" * 4,
        struct.pack(">I", 65537),
        STATUS[:4] + b"x" * len(STATUS),
    ]
    nonsense += [HEADER.pack(2) + b"{}", HEADER.pack(3) + b"[1]", HEADER.pack(4) + b"\xff\xfe\0\0"]
    for data in nonsense:
        stream = await served.connect()
        await stream.send_all(data)
        await stream.send_eof()
        answer = await everything(stream)
        assert not answer or reason_of(answer) in {Reason.BAD_REQUEST, Reason.TOO_LARGE}
    assert (await served.client.status()).state is KeeperState.NOT_ENROLLED


async def test_several_calls_on_one_connection_and_in_any_pieces(served: Served) -> None:
    """One after the other, byte by byte, two in one."""
    stream = await served.connect()
    for size in (1, 3, len(STATUS)):
        for start in range(0, len(STATUS), size):
            await stream.send_all(STATUS[start : start + size])
    await stream.send_all(STATUS * 2)
    await stream.send_eof()
    answers = await everything(stream)
    length = HEADER.unpack(answers[:4])[0] + 4
    assert answers.count(b'"state":"not_enrolled"') == 5
    assert len(answers) >= 5 * (length - 8)


async def test_half_a_frame_and_silence_are_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that sends nothing, or stops, is hung up on; others are served meanwhile."""
    monkeypatch.setattr(server, "FRAME_S", 0.2)
    monkeypatch.setattr(server, "IDLE_S", 0.4)
    for sent in (b"", STATUS[:1], STATUS[:4], STATUS[:-1]):
        stream = await served.connect()
        await stream.send_all(sent)
        await served.client.status()
        assert await everything(stream) == b""


async def test_a_caller_that_does_not_read_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its answers fill the socket; it ends."""
    monkeypatch.setattr(server, "FRAME_S", 0.3)
    stream = await served.connect()
    with trio.fail_after(20):
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await stream.send_all(STATUS * 50)
    assert (await served.client.status()).state is KeeperState.NOT_ENROLLED


async def test_a_thousand_connections_leave_room_for_others(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """One user holds a bounded number; more are told so. When they go, there is room again; nothing leaks."""
    assert CALLERS_OF_ONE_USER < CALLERS
    streams, full = [], 0
    for _ in range(CALLERS_OF_ONE_USER):
        streams.append(await served.connect())
        await streams[-1].send_all(STATUS)
        assert b"not_enrolled" in await streams[-1].receive_some(4096)
    for _ in range(1000):
        stream = await served.connect()
        answer = await everything(stream)
        full += reason_of(answer) is Reason.BUSY
    assert full == 1000
    with pytest.raises(UnavailableError, match="busy"):
        await served.client.status()
    monkeypatch.setattr(unixsocket, "user_of", lambda _: 12345)
    with pytest.raises(BsfgError, match="caller_denied"):  # another user has room, if no role
        await served.client.status()
    monkeypatch.undo()
    for stream in streams:
        await stream.aclose()
    await trio.testing.wait_all_tasks_blocked(0.05)
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(1000):
        async with await served.connect():
            pass
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert (await served.client.status()).state is KeeperState.NOT_ENROLLED
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert len(os.listdir("/proc/self/fd")) <= descriptors


async def test_nobody_at_the_socket_is_no_keeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No socket, a dead one, one that hangs up, one that says nothing, one that says nonsense."""
    path = tmp_path / "keeper.sock"
    keeper = KeeperClient(path, deadline_s=0.3)
    with pytest.raises(UnavailableError, match="keeper_unavailable"):
        await keeper.status()
    answers = [b"", b"\0", HEADER.pack(ANSWER_BYTES + 1), HEADER.pack(2) + b"{}", HEADER.pack(9) + b"x", None]
    with listening(path) as listener:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660

        async def answer() -> None:
            while True:
                connection, _ = await listener.accept()
                with connection:
                    await connection.recv(4096)
                    what = answers.pop(0)
                    if what is None:
                        await trio.sleep_forever()
                    else:
                        await connection.send(what)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer)
            while answers:
                with pytest.raises((UnavailableError, RefusedError)) as caught:
                    await keeper.sign(b"bsfg.v1 receipt\n")
                assert caught.value.reason is Reason.KEEPER_UNAVAILABLE
            nursery.cancel_scope.cancel()
    with pytest.raises(UnavailableError, match="keeper_unavailable"):
        await keeper.status()
    monkeypatch.setattr(client, "QUICK_S", 0.1)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RefusedError, match="no socket"), listening(tmp_path / "file"):
        pass


async def test_a_connection_that_cannot_be_taken_ends_nothing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the machine has no more files to open; the next one is taken."""
    with trio.socket.socket() as some:
        kind = type(some)
    honest: Any = kind.accept
    failures = [OSError(24, "Too many open files"), OSError(103, "Software caused connection abort")]

    async def fails(listener: Any) -> Any:
        if failures:
            raise failures.pop()
        return await honest(listener)

    monkeypatch.setattr(kind, "accept", fails)
    for _ in range(3):
        assert (await served.client.status()).state is KeeperState.NOT_ENROLLED
    assert failures == []


async def test_a_defect_in_one_call_is_answered(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the keeper goes on."""

    async def broken(statement: bytes) -> None:
        raise ZeroDivisionError(statement)

    monkeypatch.setattr(served.keeper, "sign", broken)
    with pytest.raises(UnavailableError, match="internal"):
        await served.client.sign(b"bsfg.v1 receipt\n")
    assert (await served.client.status()).state is KeeperState.NOT_ENROLLED


async def test_the_keys_port_on_a_keeper(served: Served) -> None:
    """Signs there, verifies by the registry; other bytes than statements do not even leave the process."""
    certificate = await served.site.enrol(served.client)
    registry = Registry(served.site.hub_ca.certificate, {PLANT: (certificate,)})
    keys = KeeperKeys(served.client, registry, "swtpm")
    statement = b"bsfg.v1 receipt\nx\n"
    signature = await keys.sign(statement)
    assert keys.kind == "swtpm"
    assert keys.verify(PLANT, statement, signature)
    assert not keys.verify(PLANT, statement + b"y\n", signature)
    assert not keys.verify(HUB, statement, signature)
    with pytest.raises(ValueError, match="statements of this product only"):
        await keys.sign(b"\x30\x82")
    asked = await trio.to_thread.run_sync(ask_keeper, served.site.socket, lambda keeper: keeper.status())
    assert asked == await served.client.status()
