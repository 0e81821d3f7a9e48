# SPDX-License-Identifier: Apache-2.0
"""A broker as a process: started, refused, killed; and the proof of durability asked from the real one."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.binary import BrokerBinary, Version
from appliance.brokers.config import SYSTEM_USER, Local
from appliance.brokers.durability import REQUEST, BrokerReport, parse_jsz, require_durable
from appliance.brokers.process import BrokerProcess, read_greeting
from tests.brokers import LIMITS, as_client, binary, local, process, running
from tests.doors import Door, door, entered


def alive(pid: int) -> bool:
    """Whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def ask(at: Door) -> BrokerReport:
    """What the broker says about itself."""

    async def scenario() -> bytes:
        async with entered(at, SYSTEM_USER) as (client, _):
            return (await client.request(REQUEST, b"", timeout=5)).data

    return parse_jsz(await as_client(scenario))


async def test_it_serves_when_start_returns_and_is_gone_after_stop(tmp_path: Path) -> None:
    """In good order: its exit code is 0, and its port is free."""
    at = door(tmp_path)
    listen = at.listen
    broker = process(tmp_path, "facts", at.text(), listen)
    before = broker.pid
    greeting = await broker.start()
    try:
        assert (greeting.server_name, greeting.jetstream) == ("plant-a-facts", True)
        assert Version.parse(greeting.version) == binary().version
        pid = broker.pid
        assert before is None
        assert pid is not None
        assert alive(pid)
        assert os.getsid(pid) == pid  # Ctrl-C in our terminal does not reach it
        with pytest.raises(RuntimeError, match="runs already"):
            await broker.start()
    finally:
        assert await broker.stop() == 0
    assert broker.pid is None
    assert not alive(pid)
    with pytest.raises(OSError, match="127"):
        await read_greeting(listen)
    assert not list(tmp_path.glob("*.ports"))
    assert "plant-a-facts" in (tmp_path / "facts.log").read_text()


async def test_it_comes_back_after_kill(tmp_path: Path) -> None:
    """With the same object, as often as wanted; whoever waits for its end hears of it."""
    at = door(tmp_path)
    listen = at.listen
    async with running(tmp_path, "facts", at.text(), listen) as broker:
        pids = {broker.pid}
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                ends: list[int] = []

                async def wait(ends: list[int] = ends) -> None:
                    ends.append(await broker.wait())

                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                assert await broker.kill() == -9
            assert ends == [-9]
            assert not list(tmp_path.glob("*.ports"))
            await broker.start()
            pids.add(broker.pid)
        assert len(pids) == 4


async def test_a_broken_configuration_is_refused_in_nats_servers_words(tmp_path: Path) -> None:
    """Before anything is started."""
    at = door(tmp_path)
    listen = at.listen
    text = at.text().replace("max_payload", "max_paylod")
    broker = process(tmp_path, "facts", text, listen)
    with pytest.raises(UnavailableError) as caught:
        await broker.start()
    assert caught.value.reason == Reason.BROKER_REFUSED
    assert 'unknown field "max_paylod"' in caught.value.detail
    assert broker.pid is None


async def test_a_taken_port_is_not_mistaken_for_our_broker(tmp_path: Path) -> None:
    """Even when another nats-server answers there."""
    at = door(tmp_path)
    listen = at.listen
    async with running(tmp_path / "one", "facts", at.text(), listen):
        second = process(tmp_path / "two", "facts", Door(listen, at.keys, tmp_path / "two").text(), listen)
        with pytest.raises(UnavailableError) as caught:
            await second.start()
        assert caught.value.reason == Reason.BROKER_REFUSED
        assert "address already in use" in caught.value.detail
        assert second.pid is None


def stand_in(folder: Path, script: str) -> BrokerBinary:
    """A program that takes nats-server's place: it accepts every configuration, then runs the script."""
    path = folder / "nats-server"
    path.write_text(f'#!/bin/sh\nfor word; do [ "$word" = -t ] && exit 0; done\n{script}\n')
    path.chmod(0o755)
    return BrokerBinary(path, binary().version)


async def test_one_that_never_serves_is_ended(tmp_path: Path) -> None:
    """Within the time that was given."""
    broker = BrokerProcess(stand_in(tmp_path, "exec sleep 60"), tmp_path / "x.conf", tmp_path / "log", local())
    before = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        await broker.start(timeout_s=0.5)
    assert caught.value.reason == Reason.BROKER_UNAVAILABLE
    assert broker.pid is None
    assert time.monotonic() - before < 5


async def test_one_that_ends_tells_its_last_words(tmp_path: Path) -> None:
    """From its log."""
    broker = BrokerProcess(stand_in(tmp_path, "echo no luck; exit 3"), tmp_path / "c", tmp_path / "log", local())
    with pytest.raises(UnavailableError) as caught:
        await broker.start()
    assert (caught.value.reason, "it ended with 3: no luck" in caught.value.detail) == (Reason.BROKER_REFUSED, True)


async def test_a_cancelled_start_leaves_nothing_running(tmp_path: Path) -> None:
    """Not even for a moment after."""
    script = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    broker = BrokerProcess(stand_in(tmp_path, script), tmp_path / "c", tmp_path / "log", local())
    with trio.move_on_after(0.5) as scope:
        await broker.start()
    assert scope.cancelled_caught
    assert not alive(int((tmp_path / "pid").read_text()))


async def test_one_that_does_not_heed_is_killed(tmp_path: Path) -> None:
    """After its grace."""
    at = door(tmp_path)
    listen = at.listen
    async with running(tmp_path, "facts", at.text(), listen) as broker:
        os.kill(broker.pid or 0, 19)  # SIGSTOP: it cannot heed anything
        before = time.monotonic()
        assert await broker.stop(timeout_s=0.2) == -9
        assert time.monotonic() - before < 5


async def test_a_missing_program_is_named(tmp_path: Path) -> None:
    """It may have been removed since it was found."""
    gone = BrokerBinary(tmp_path / "gone", binary().version)
    with pytest.raises(UnavailableError) as caught:
        await BrokerProcess(gone, tmp_path / "c", tmp_path / "log", local()).start()
    assert caught.value.reason == Reason.BROKER_NOT_FOUND
    assert "gone" in caught.value.detail


@pytest.mark.parametrize(
    "line",
    [
        b'INFO {"server_name":"x","version":"2.10.27","jetstream":true}\r\n',
        b'INFO {"server_name":"x"}\r\n',
        b"INFO []\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
async def test_what_greets_otherwise_is_no_broker(line: bytes) -> None:
    """Too old, or something else altogether."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        listen = Local("127.0.0.1", server.getsockname()[1])

        def answer() -> None:
            server.settimeout(20)
            connection, _ = server.accept()
            with connection:
                connection.sendall(line)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, answer)
            with pytest.raises(UnavailableError) as caught:
                await read_greeting(listen)
    assert caught.value.reason == Reason.BROKER_UNAVAILABLE


async def test_our_broker_proves_that_it_is_durable(tmp_path: Path) -> None:
    """By what it runs with, and with the bounds it was given."""
    at = door(tmp_path)
    listen = at.listen
    async with running(tmp_path, "facts", at.text(), listen):
        report = await ask(at)
    require_durable(report)
    assert report.sync_always
    assert report.server_name == "plant-a-facts"
    assert (report.max_file_store, report.max_memory_store) == (LIMITS.max_file_store, LIMITS.max_memory_store)
    assert Path(report.store_dir).is_relative_to(tmp_path)


@pytest.mark.parametrize(("interval", "words"), [('"2m"', "every 120 s"), ('"1s"', "every 1 s")])
async def test_a_broker_with_another_setting_does_not(tmp_path: Path, interval: str, words: str) -> None:
    """The real one, told to write later."""
    at = door(tmp_path)
    listen = at.listen
    text = at.text().replace('sync_interval: "always"', f"sync_interval: {interval}")
    async with running(tmp_path, "facts", text, listen):
        report = await ask(at)
    with pytest.raises(UnavailableError) as caught:
        require_durable(report)
    assert caught.value.reason == Reason.BROKER_NOT_DURABLE
    assert words in caught.value.detail


async def test_a_broker_without_jetstream_does_not(tmp_path: Path) -> None:
    """The real one, with its store switched off."""
    at = door(tmp_path)
    listen = at.listen
    text = at.text().replace("jetstream: {\n", "jetstream: {\n  enabled: false\n")
    text = text.replace('    jetstream: "enabled"\n', "")
    async with running(tmp_path, "facts", text, listen):
        report = await ask(at)
    with pytest.raises(UnavailableError) as caught:
        require_durable(report)
    assert "without JetStream" in caught.value.detail
