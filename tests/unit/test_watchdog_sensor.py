# SPDX-License-Identifier: Apache-2.0
"""The sensor: probes that hang or break, the socket to the watchdog, who may speak there, and what is not forgotten."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from appliance.factlog.notify import ServiceManager
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.sensor.listening import ReadingSocket
from appliance.watchdog.sensor.runner import Runner
from appliance.watchdog.sensor.sensor import Sensor
from appliance.watchdog.sensor.telling import KEPT, Telling
from appliance.watchdog.suspicions import Code, ProbeName

BAD = Reading(ProbeName.KERNEL, (Seen(Code.KEXEC_LOADED, "1"),))
GOOD = Reading(ProbeName.KERNEL)


@dataclass(slots=True)
class Made:
    """A probe that says what it is told to, has events, and hangs or breaks when asked to."""

    name: ProbeName = ProbeName.KERNEL
    period_s: float = 0.05
    reading: Reading | None = None
    broken: str = ""
    free: threading.Event = field(default_factory=threading.Event)
    looks: int = 0
    closed: bool = False
    _pipe: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        self.free.set()

    def look(self) -> Reading:
        """As the port says."""
        self.looks += 1
        if self._pipe is not None:
            os.set_blocking(self._pipe[0], False)
            with suppress(BlockingIOError):
                os.read(self._pipe[0], 4096)
        if self.broken:
            raise ValueError(self.broken)
        assert self.free.wait(30)
        return self.reading or Reading(self.name)

    def event(self) -> None:
        """Something happens."""
        self.descriptor()
        assert self._pipe is not None
        os.write(self._pipe[1], b"x")

    def descriptor(self) -> int | None:
        """As the port says."""
        if self._pipe is None:
            self._pipe = os.pipe()
        return self._pipe[0]

    def close(self) -> None:
        """As the port says."""
        self.closed = True
        for file in self._pipe or ():
            os.close(file)


class Heard:
    """What was sent."""

    def __init__(self) -> None:
        self.readings: list[tuple[float, Reading]] = []
        self.news = trio.Event()

    async def __call__(self, reading: Reading) -> None:
        """Keep it."""
        self.readings.append((time.monotonic(), reading))
        self.news.set()
        self.news = trio.Event()

    async def until(self, count: int, probe: ProbeName) -> list[Reading]:
        """So many of a probe."""
        with trio.fail_after(10):
            while len(found := [reading for _, reading in self.readings if reading.probe is probe]) < count:
                await self.news.wait()
        return found


@asynccontextmanager
async def going(runner: Runner) -> AsyncIterator[None]:
    """While the block lasts."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(runner.run)
        yield
        nursery.cancel_scope.cancel()


async def test_a_probe_that_hangs_is_blind_and_stops_nobody() -> None:
    """It is asked again when it has come back; never by two at a time."""
    heard, good, stuck = Heard(), Made(ProbeName.MOUNTS), Made(ProbeName.DISK)
    stuck.free.clear()
    async with going(Runner([good, stuck], heard, patience_s=0.1)) as _:
        blind = await heard.until(3, ProbeName.DISK)
        assert all(reading.blind for reading in blind)
        assert stuck.looks == 1
        await heard.until(5, ProbeName.MOUNTS)
        stuck.free.set()
        with trio.fail_after(10):
            while (await heard.until(len(blind) + 1, ProbeName.DISK))[-1].blind:
                blind = await heard.until(len(blind) + 1, ProbeName.DISK)
        assert stuck.looks == 2
    assert not any(reading.blind for _, reading in heard.readings if reading.probe is ProbeName.MOUNTS)


async def test_a_probe_that_breaks_is_blind() -> None:
    """With why."""
    heard, broken = Heard(), Made(broken="no such thing")
    async with going(Runner([broken], heard)):
        assert (await heard.until(2, ProbeName.KERNEL))[0].blind == "ValueError: no such thing"


async def test_an_event_is_looked_at_at_once() -> None:
    """Not after the period; a flood of events is few looks."""
    heard, probe = Heard(), Made(period_s=60.0)
    async with going(Runner([probe], heard)):
        await heard.until(1, ProbeName.KERNEL)
        for number in range(5):
            await trio.sleep(0.06)
            began = time.monotonic()
            probe.event()
            await heard.until(number + 2, ProbeName.KERNEL)
            assert heard.readings[-1][0] - began < 0.3
        before, began = probe.looks, time.monotonic()
        while time.monotonic() - began < 0.3:
            probe.event()
            await trio.lowlevel.checkpoint()
        assert probe.looks - before <= 8
        await trio.sleep(0.5)  # its last look is over
    assert probe.closed


async def test_the_loop_is_proven_and_not_only_the_process() -> None:
    """A probe's loop that does not come round, whatever it waits for, is not alive."""

    async def never(_: Reading) -> None:
        await trio.sleep_forever()

    runner = Runner([Made()], never, patience_s=0.0)
    async with going(runner):
        await trio.sleep(0.05)
        now = time.monotonic()
        assert runner.alive(now)
        assert not runner.alive(now + 6.0)


async def test_readings_arrive_and_a_watchdog_that_starts_again_is_told(tmp_path: Path) -> None:
    """What was wrong meanwhile is not lost, though it is over; and the present state of each probe follows."""
    path = tmp_path / "readings.sock"
    telling = Telling(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(telling.run)
        await telling.tell(BAD)  # nobody listens yet
        await telling.tell(GOOD)
        with trio.fail_after(10):
            async with ReadingSocket(path, os.geteuid()) as readings:
                before = readings.last_heard
                assert [await anext(readings), await anext(readings)] == [BAD, GOOD]
                assert (before, readings.last_heard is None) == (None, False)
                await telling.tell(BAD)
                await telling.tell(GOOD)  # both may be lost with this watchdog
            async with ReadingSocket(path, os.geteuid()) as readings:
                heard = [await anext(readings)]
                while heard[-1] != GOOD:
                    heard.append(await anext(readings))
                assert BAD in heard
        nursery.cancel_scope.cancel()


async def test_a_watchdog_that_ends_is_noticed_with_nothing_to_tell(tmp_path: Path) -> None:
    """The next one is connected to at once, and hears the present state."""
    path = tmp_path / "readings.sock"
    telling = Telling(path)
    await telling.tell(GOOD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(telling.run)
        with trio.fail_after(10):
            for _ in range(2):
                async with ReadingSocket(path, os.geteuid()) as readings:
                    assert await anext(readings) == GOOD
        nursery.cancel_scope.cancel()


async def test_suspicions_are_kept_before_what_is_dull(tmp_path: Path) -> None:
    """However long nobody listens."""
    telling = Telling(tmp_path / "readings.sock")
    await telling.tell(BAD)
    for _ in range(3 * KEPT):
        await telling.tell(Reading(ProbeName.MOUNTS))
    async with trio.open_nursery() as nursery:
        async with ReadingSocket(tmp_path / "readings.sock", os.geteuid()) as readings:
            nursery.start_soon(telling.run)
            with trio.fail_after(10):
                assert await anext(readings) == BAD
        nursery.cancel_scope.cancel()


async def test_nobody_else_is_heard(tmp_path: Path) -> None:
    """The kernel says who connects; the socket's mode is not what decides."""
    path = tmp_path / "readings.sock"
    async with ReadingSocket(path, os.geteuid() + 1) as readings:
        async with await trio.open_unix_socket(path) as stream:
            with trio.fail_after(10):
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(BAD.render())
                    assert await stream.receive_some(1) == b""
        assert readings.last_heard is None


@pytest.mark.parametrize("line", [b"\n", b"{}\n", b"x" * 40_000, BAD.render()[:-2] + b"\n"])
async def test_a_line_that_is_no_reading_ends_the_connection(tmp_path: Path, line: bytes) -> None:
    """And the next connection is heard; a newer one takes the place of an older."""
    path = tmp_path / "readings.sock"
    async with ReadingSocket(path, os.geteuid()) as readings:
        with trio.fail_after(10):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(BAD.render() + line)
                assert await anext(readings) == BAD
                assert await stream.receive_some(1) == b""
            async with await trio.open_unix_socket(path) as older, await trio.open_unix_socket(path) as newer:
                await newer.send_all(BAD.render()[:20])
                assert await older.receive_some(1) == b""
                await newer.send_all(BAD.render()[20:])
                assert await anext(readings) == BAD


class Told(ServiceManager):
    """Counts what systemd is told."""

    def __init__(self) -> None:
        super().__init__()
        self.pings: list[tuple[bool, str]] = []
        self.ready = trio.Event()

    def alive(self, *, ready: bool, text: str) -> None:
        """Keep it."""
        self.pings.append((ready, text))
        if ready:
            self.ready.set()


async def test_the_sensor_lives_without_a_watchdog_and_with_one(tmp_path: Path) -> None:
    """It says so to systemd, and is ready when each probe has looked once."""
    told, probe = Told(), Made()
    sensor = Sensor([probe], tmp_path / "readings.sock", tmp_path, told)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sensor.run)
        with trio.fail_after(10):
            await told.ready.wait()
            assert told.pings[-1][1] == "the watchdog does not listen"
            async with ReadingSocket(tmp_path / "readings.sock", os.geteuid()) as readings:
                assert (await anext(readings)).probe is ProbeName.KERNEL
                probe.reading = BAD
                while not (await anext(readings)).seen:
                    pass
            assert sensor.values()["probes"]["kernel"]["seen"] == [{"code": "kexec_loaded", "detail": "1"}]
            document = json.loads((tmp_path / "sensor.json").read_bytes())
            assert (document["name"], document["state"], document["problems"]) == ("sensor", "looking", [])
        nursery.cancel_scope.cancel()
    assert probe.closed
