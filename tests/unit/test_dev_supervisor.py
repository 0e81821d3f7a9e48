# SPDX-License-Identifier: Apache-2.0
"""The supervisor keeps processes running, starts and ends them in order, and leaves none behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev.child import ChildSpec, ChildState, describe_end
from appliance.dev.control import (
    CutRequest,
    DownRequest,
    HealRequest,
    KillRequest,
    PowerCutRequest,
    Request,
    StatusRequest,
    SupervisorStatus,
    ask,
    encode_request,
    parse_request,
)
from appliance.dev.link import Cut, SimulatedLink
from appliance.dev.pids import ProcessIdentity, wait_until_gone
from appliance.dev.restarts import RestartPolicy, Restarts
from appliance.dev.supervisor import ChildFailedError, Identities, Progress, Step, Supervisor

QUICK = RestartPolicy(first=0.05, longest=0.2, proven=30)
JOURNAL = """
import signal, sys, time
def note(what):
    with open(sys.argv[2], "a") as journal:
        print(sys.argv[1], what, file=journal, flush=True)
def end(*_):
    note("ends")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
note("starts")
time.sleep(60)
"""

FOLLOWER = """
import signal, sys, time
def note(*_):
    with open(sys.argv[1]) as file, open(sys.argv[2], "a") as journal:
        print(file.read(), file=journal, flush=True)
signal.signal(signal.SIGHUP, note)
note()
while True:
    time.sleep(60)
"""


async def at_once(_pid: int) -> bool:
    """Ready as soon as it runs."""
    return True


async def never(_pid: int) -> bool:
    """Never ready."""
    return False


def spec(
    folder: Path,
    name: str,
    argv: Sequence[str] = ("sleep", "60"),
    *,
    ready: Callable[[int], Awaitable[bool]] = at_once,
    after: tuple[str, ...] = (),
    volatile: tuple[Path, ...] = (),
    follows: tuple[Path, ...] = (),
    once: bool = False,
) -> ChildSpec:
    """A trivial process."""
    log = folder / f"{name}.log"
    return ChildSpec(name, argv, log, ready, after=after, volatile=volatile, follows=follows, once=once)


class Running:
    """A supervisor that runs in a test, and what it remembered and reported."""

    def __init__(self, folder: Path, specs: Sequence[ChildSpec], ready_timeout: float = 20) -> None:
        self.remembered: Identities = {}
        self.reports: list[Progress] = []
        self.socket = folder / "supervisor.sock"
        self.supervisor = Supervisor(
            specs,
            SimulatedLink([]),
            self.socket,
            self._remember,
            policy=QUICK,
            ready_timeout=ready_timeout,
            report=self.reports.append,
        )

    def _remember(self, running: Identities) -> None:
        self.remembered = dict(running)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something."""
        while not condition():  # noqa: ASYNC110 - it watches from outside
            await trio.sleep(0.01)

    async def ask(self, request: Request) -> dict[str, object]:
        """Ask on the socket, as a client would."""
        return await trio.to_thread.run_sync(partial(ask, self.socket, request))

    def pid(self, name: str) -> int:
        """The pid of a process that runs."""
        return next(p.pid for p in self.supervisor.status().processes if p.name == name) or 0


@asynccontextmanager
async def supervising(folder: Path, *specs: ChildSpec) -> AsyncIterator[Running]:
    """A supervisor whose processes are all ready."""
    running = Running(folder, specs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.supervisor.run)
        with trio.fail_after(30):
            await running.until(lambda: any(r.step is Step.ALL_READY for r in running.reports))
            yield running
            running.supervisor.down()


async def test_a_killed_process_is_started_again(tmp_path: Path) -> None:
    """With another pid, which is remembered; the others are left alone."""
    async with supervising(tmp_path, spec(tmp_path, "one"), spec(tmp_path, "two")) as running:
        one, two = running.pid("one"), running.pid("two")
        assert await running.ask(KillRequest("one")) == {"pid": one}
        await running.until(lambda: running.pid("one") not in (0, one))
        await running.until(lambda: "one" in running.remembered and running.remembered["one"].pid == running.pid("one"))
        assert running.pid("two") == two
        status = SupervisorStatus.parse(await running.ask(StatusRequest()))
        process = {p.name: p for p in status.processes}["one"]
        assert (process.restarts, process.last_end) == (1, "was ended by SIGKILL")
        assert status.supervisor_pid == os.getpid()


async def test_a_power_cut_kills_what_runs(tmp_path: Path) -> None:
    """All at once; what does not run is passed over, and what nobody knows is refused before anything is killed."""
    waits = spec(tmp_path, "waits", follows=(tmp_path / "never",))
    running = Running(tmp_path, [spec(tmp_path, "one"), spec(tmp_path, "two"), waits])
    running.supervisor.files_patience = 0.1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.supervisor.run)
        with trio.fail_after(30):
            await running.until(lambda: any(r.step is Step.ALL_READY for r in running.reports))
            one, two = running.pid("one"), running.pid("two")
            with pytest.raises(BsfgError, match="nobody"):
                await running.ask(PowerCutRequest(("one", "nobody")))
            assert await running.ask(PowerCutRequest(("one", "waits"))) == {"pids": {"one": one}}
            await running.until(lambda: running.pid("one") not in (0, one))
            assert running.pid("two") == two
        running.supervisor.down()


async def test_a_kill_waits_for_a_process_that_is_being_started_again(tmp_path: Path) -> None:
    """Whoever kills at random moments need not look first."""
    async with supervising(tmp_path, spec(tmp_path, "one")) as running:
        first = await running.ask(KillRequest("one"))
        await running.until(lambda: running.pid("one") == 0)
        second = await running.ask(KillRequest("one"))
        assert first != second
        await running.until(lambda: running.pid("one") not in (0, first["pid"], second["pid"]))


async def test_nothing_is_left_when_it_goes_down(tmp_path: Path) -> None:
    """Every process has ended before the supervisor does, and its socket is gone."""
    async with supervising(tmp_path, spec(tmp_path, "one"), spec(tmp_path, "two")) as running:
        await running.until(lambda: len(running.remembered) == 2)
        identities = list(running.remembered.values())
        assert all(identity.alive for identity in identities)
        assert await running.ask(DownRequest()) == {}
    assert not any(identity.alive for identity in identities)
    assert not running.socket.exists()


async def test_order_of_start_and_end(tmp_path: Path) -> None:
    """What others need is started before them and ended after them."""
    journal = tmp_path / "journal"

    def noted(name: str, after: tuple[str, ...]) -> ChildSpec:
        async def has_started(_pid: int) -> bool:
            return journal.exists() and f"{name} starts" in journal.read_text()

        argv = [sys.executable, "-c", JOURNAL, name, str(journal)]
        return spec(tmp_path, name, argv, ready=has_started, after=after)

    async with supervising(tmp_path, noted("top", ("base",)), noted("base", ())):
        pass
    assert journal.read_text().splitlines() == ["base starts", "top starts", "top ends", "base ends"]


async def test_what_is_done_once_comes_before_what_waits_for_it(tmp_path: Path) -> None:
    """It may fail first; when it has ended well it is done, and is not started again."""
    done = tmp_path / "done"
    script = f"if [ -e {done}.1 ]; then touch {done}; else touch {done}.1; exit 3; fi"
    step = spec(tmp_path, "step", ["sh", "-c", script], ready=never, once=True)
    later = spec(tmp_path, "later", ["sh", "-c", f"test -e {done} && sleep 60"], after=("step",))
    async with supervising(tmp_path, step, later) as running:
        states = {p.name: (p.state, p.restarts) for p in running.supervisor.status().processes}
        assert states == {"step": (ChildState.DONE, 1), "later": (ChildState.READY, 0)}
        assert running.supervisor.status().ready


async def test_a_step_that_fails_ends_the_start(tmp_path: Path) -> None:
    """After three attempts, as any process."""
    running = Running(tmp_path, [spec(tmp_path, "step", ["false"], once=True)])
    with trio.fail_after(20), pytest.raises(ChildFailedError, match="step ended with exit code 1"):
        await running.supervisor.run()


async def test_a_process_follows_its_file(tmp_path: Path) -> None:
    """It is started when the file is there, hears SIGHUP when it is another, and only then; also after a restart."""
    file, journal = tmp_path / "session.pem", tmp_path / "journal"
    program = [sys.executable, "-c", FOLLOWER, str(file), str(journal)]

    async def has_started(_pid: int) -> bool:
        return journal.exists()

    running = Running(tmp_path, [spec(tmp_path, "one", program, ready=has_started, follows=(file,))])

    def heard() -> list[str]:
        return journal.read_text().splitlines() if journal.exists() else []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.supervisor.run)
        with trio.fail_after(30):
            await running.until(lambda: running.supervisor.status().processes[0].state is ChildState.WAITING)
            await trio.sleep(0.2)
            assert heard() == []
            file.write_text("first")
            await running.until(lambda: heard() == ["first"])
            replacement = tmp_path / "new"
            replacement.write_text("second")
            replacement.replace(file)
            await running.until(lambda: heard() == ["first", "second"])
            await running.ask(KillRequest("one"))
            await running.until(lambda: heard() == ["first", "second", "second"])
            await trio.sleep(0.5)
            assert heard() == ["first", "second", "second"]
        running.supervisor.down()


async def test_a_file_that_does_not_come_ends_no_start(tmp_path: Path) -> None:
    """What needs it waits, and that is said; all else is up. With the file, it is started after all."""
    file = tmp_path / "session.pem"
    running = Running(tmp_path, [spec(tmp_path, "one"), spec(tmp_path, "two", follows=(file,))])
    running.supervisor.files_patience = 0.2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(running.supervisor.run)
        with trio.fail_after(30):
            await running.until(lambda: any(r.step is Step.ALL_READY for r in running.reports))
            assert Progress(Step.LATER, "two", "waits for session.pem") in running.reports
            assert not running.supervisor.status().ready
            file.touch()
            await running.until(lambda: running.supervisor.status().ready)
        running.supervisor.down()


async def test_a_process_that_does_not_start_ends_the_start(tmp_path: Path) -> None:
    """After three attempts; the error names process and log, and the others are ended."""
    specs = [spec(tmp_path, "good"), spec(tmp_path, "bad", ["sh", "-c", "echo no luck; exit 7"], ready=never)]
    running = Running(tmp_path, specs)
    with trio.fail_after(20), pytest.raises(ChildFailedError, match="bad ended with exit code 7") as caught:
        await running.supervisor.run()
    assert caught.value.log.read_text().count("no luck") == 3
    assert {p.state for p in running.supervisor.status().processes} == {ChildState.STOPPED}


async def test_a_process_that_is_never_ready_ends_the_start(tmp_path: Path) -> None:
    """The one that is late is named, not the one that waits for it."""
    specs = [spec(tmp_path, "waits", after=("late",)), spec(tmp_path, "late", ready=never)]
    running = Running(tmp_path, specs, ready_timeout=0.3)
    with trio.fail_after(20), pytest.raises(ChildFailedError, match="late is not ready"):
        await running.supervisor.run()


async def test_a_program_that_is_not_there_is_an_end(tmp_path: Path) -> None:
    """It is no defect of the supervisor."""
    running = Running(tmp_path, [spec(tmp_path, "ghost", [str(tmp_path / "ghost")], ready=never)])
    with trio.fail_after(20), pytest.raises(ChildFailedError, match="ghost ended with exit code 1") as caught:
        await running.supervisor.run()
    assert "ghost cannot be started: No such file" in caught.value.log.read_text()


async def test_volatile_files_go_with_the_process(tmp_path: Path) -> None:
    """A status document of a process that is gone would tell something that is no longer so."""
    document = tmp_path / "status.json"
    async with supervising(tmp_path, spec(tmp_path, "one", volatile=(document,))) as running:
        document.write_text("{}")
        await running.ask(KillRequest("one"))
        await running.until(lambda: not document.exists())


async def test_requests_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    """With a reason, and everything goes on."""
    async with supervising(tmp_path, spec(tmp_path, "one")) as running:
        with pytest.raises(BsfgError) as caught:
            await running.ask(KillRequest("nobody"))
        assert caught.value.reason is Reason.BAD_INPUT
        await running.ask(CutRequest(Cut.BLACKHOLE))
        assert running.supervisor.status().link.cut == "blackhole"
        await running.ask(HealRequest())
        assert running.supervisor.status().link.cut == ""


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"do": "dance"}',
        b'{"do": "kill"}',
        b'{"do": "kill", "process": 3}',
        b'{"do": "cut"}',
        b'{"do": "power-cut", "processes": "hub"}',
    ],
)
def test_what_is_no_request(line: bytes) -> None:
    """Bytes from the socket are parsed, not trusted."""
    with pytest.raises(RefusedError):
        parse_request(line)


@pytest.mark.parametrize(
    "request_",
    [
        StatusRequest(),
        CutRequest(Cut.BLACKHOLE),
        HealRequest(),
        KillRequest("hub"),
        PowerCutRequest(("hub", "agent")),
        DownRequest(),
    ],
)
def test_requests_come_through(request_: Request) -> None:
    """What is written is what is read."""
    assert parse_request(encode_request(request_)) == request_


def test_nobody_answers(tmp_path: Path) -> None:
    """Neither where no socket is, nor on one that nobody serves, nor in a folder with a name of any length."""
    folder = tmp_path / ("long" * 60)
    folder.mkdir()
    with pytest.raises(UnavailableError) as caught:
        ask(folder / "supervisor.sock", StatusRequest())
    assert caught.value.reason is Reason.NOT_RUNNING


def test_pauses_grow_and_are_forgotten() -> None:
    """0.5 s doubled up to 4 s; after a run of ten seconds it is 0.5 s again."""
    restarts = Restarts(RestartPolicy())
    assert [restarts.pause_after(1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 4.0, 4.0]
    assert restarts.pause_after(10.0) == 0.5
    assert restarts.total == 6
    assert describe_end(-9) == "was ended by SIGKILL"


ORPHANS = """
import json, sys, trio
from pathlib import Path
from appliance.dev.child import ChildSpec
from appliance.dev.link import SimulatedLink
from appliance.dev.supervisor import Supervisor
folder = Path(sys.argv[1])
async def ready(_pid): return True
def remember(running):
    print(json.dumps({n: [i.pid, i.started, i.boot] for n, i in running.items()}), flush=True)
trio.run(Supervisor(
    [ChildSpec("one", ["sleep", "60"], folder / "log", ready)], SimulatedLink([]), folder / "sock", remember
).run)
"""


def test_processes_end_with_a_supervisor_that_is_killed(tmp_path: Path, root: Path) -> None:
    """The kernel sees to it, so that nobody holds ports and stores of an environment that nobody runs."""
    with subprocess.Popen([sys.executable, "-c", ORPHANS, tmp_path], cwd=root, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        child = None
        while child is None:
            running = json.loads(supervisor.stdout.readline())
            child = ProcessIdentity(*running["one"]) if running else None
        assert child.alive
        supervisor.kill()
    assert wait_until_gone(child, timeout=10)
