# SPDX-License-Identifier: Apache-2.0
"""The watchdog with its desk: what it tells, who may ask, and that a reading cuts before anything else is done."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner, Result

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.cli.main import cli
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.tpm.public import Digest
from appliance.watchdog.assembling import OF_THE_SENSOR, Choices, assemble
from appliance.watchdog.assessing import READING_AGE_S, Assessor
from appliance.watchdog.desk import CALLERS, FIELDS, REQUEST_BYTES, Desk, ask
from appliance.watchdog.gate import Finding, Gate, Sight
from appliance.watchdog.probes.places import Places
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.case import Moment
from appliance.watchdog.quarantine.folder import JOURNAL_FILE, CaseFolder
from appliance.watchdog.quarantine.ports import EvidenceTaker
from appliance.watchdog.quarantine.runner import Quarantine, World
from appliance.watchdog.quarantine.states import Darkness
from appliance.watchdog.quarantine.steps import ORDER
from appliance.watchdog.reporting import State
from appliance.watchdog.sensor.sensor import probes
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName
from appliance.watchdog.watchdog import Watchdog
from tests.fakes.lease import FakeLease
from tests.fakes.quarantine import FakeLock, FakeTaker
from tests.unit.test_quarantine_ladder import POLICY, release_of

LayOut = Callable[[Digest], Awaitable[None]]
PROBES = frozenset({ProbeName.KERNEL, ProbeName.DISK, ProbeName.SENSOR})


@dataclass
class Box:
    """A watchdog on a box that is played, and what it stands on."""

    folder: Path
    watchdog: Watchdog
    lease: FakeLease
    lock: FakeLock
    taker: FakeTaker
    say: trio.MemorySendChannel[Reading]
    heard: trio.MemoryReceiveChannel[Reading]

    @property
    def socket(self) -> Path:
        """Where it is asked."""
        return self.folder / "watchdog.sock"

    @classmethod
    def make(cls, folder: Path, lock: FakeLock | None = None, real: EvidenceTaker | None = None) -> Box:
        """Nothing is known of it yet. :param real: takes the evidence in the fake's place."""
        lease, taker = FakeLease(time.monotonic), FakeTaker()
        lock = lock or FakeLock(POLICY)
        (folder / "state").mkdir(exist_ok=True)
        (folder / "status").mkdir(exist_ok=True)

        async def tell() -> None:
            await watchdog.report()

        def moment() -> Moment:
            return Moment(ZoneId("plant-a"), "boot-1", time.time_ns() // 1_000_000, 5, "1")

        quarantine = Quarantine(World(lease, lock, real or taker, CaseFolder(folder / "state"), moment, tell))
        assessor = Assessor(PROBES, Gate({"keeper": 30.0}))
        watchdog = Watchdog(lease, lease, quarantine, (), folder / "status", assessor)
        return cls(folder, watchdog, lease, lock, taker, *trio.open_memory_channel[Reading](64))

    async def well(self) -> None:
        """Everything is proven."""
        self.watchdog.assessor.gate.saw(Finding("keeper", Sight.HOLDS), time.monotonic())
        for probe in (ProbeName.KERNEL, ProbeName.DISK):
            await self.say.send(Reading(probe))

    def document(self) -> dict[str, Any]:
        """What it tells; before its first word, nothing."""
        path = self.folder / "status" / "watchdog.json"
        document: dict[str, Any] = json.loads(path.read_bytes()) if path.exists() else {"state": ""}
        return document

    @asynccontextmanager
    async def running(
        self, users: frozenset[int] = frozenset({os.getuid()}), lay_out: LayOut | None = None
    ) -> AsyncIterator[None]:
        """Its process."""
        async with trio.open_nursery() as nursery:
            self.watchdog.begin()
            await nursery.start(Desk(self.watchdog, self.socket, users, lay_out).run)
            nursery.start_soon(self.watchdog.run, self.heard)
            yield
            nursery.cancel_scope.cancel()

    async def until(self, state: State) -> None:
        """Wait until its document says so."""
        with trio.fail_after(10):
            while self.watchdog.state is not state or self.document()["state"] != state:  # noqa: ASYNC110
                await trio.sleep(0.01)

    async def completed(self) -> None:
        """Wait until the ladder is climbed."""
        with trio.fail_after(10):
            while (ladder := self.watchdog.quarantine.ladder) is None or ladder.journal.missing():  # noqa: ASYNC110
                await trio.sleep(0.01)
        await self.watchdog.report()


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    """Not running yet; its rounds are short."""
    monkeypatch.setattr("appliance.watchdog.watchdog.ROUND_S", 0.1)
    made = Box.make(tmp_path)
    made.watchdog.renewal.every_s = 0.1
    return made


def is_dark(box: Box) -> bool:
    """Whether nothing leaves it."""
    return box.lease.is_dark


async def test_a_reading_cuts_in_the_task_that_hears_it(box: Box) -> None:
    """Not a round later; the document then tells everything that somebody on the spot needs."""
    async with box.running():
        await box.well()
        await box.until(State.OPEN)
        assert box.lease.is_open
        began = time.monotonic()
        box.watchdog.take(Reading(ProbeName.KERNEL, (Seen(Code.KEXEC_LOADED, "an image of 9 MB"),)))
        assert is_dark(box)
        assert time.monotonic() - began < 0.5
        await box.completed()
        told = box.document()
        stands, words = told["quarantine"], SUSPICIONS[Code.KEXEC_LOADED]
        assert (told["state"], stands["phase"], stands["code"]) == ("quarantined", "quarantined", "kexec_loaded")
        assert (stands["cause"], stands["detail"]) == (words.cause, "an image of 9 MB")
        assert stands["next_step"] == words.next_step
        assert stands["since_unix_ms"] == told["since_unix_ms"] <= time.time() * 1000
        assert (stands["counter"], stands["evidence"]) == (2, box.taker.digest(0).hex())
        assert [(each["step"], each["done"]) for each in stands["steps"]] == [(step, True) for step in ORDER]
        assert told["problems"][0] == {
            "reason": "kexec_loaded",
            "detail": "an image of 9 MB",
            "hint": words.next_step,
            "where": "kernel",
        }
        await box.well()
        await trio.sleep(0.3)
        assert is_dark(box), "that everything is well again does not end it"
        box.lease.why = None
        await trio.sleep(0.3)
        assert is_dark(box), "the lease's thread sees to it each second"


async def test_what_only_closes_opens_again_and_notes_are_told(box: Box) -> None:
    """A blind probe closes when its last reading is old; a note closes nothing."""
    async with box.running():
        await box.well()
        await box.until(State.OPEN)
        await box.say.send(Reading(ProbeName.DISK, (Seen(Code.DISK_FULL, "97 %"),)))
        await box.say.send(Reading(ProbeName.SENSOR, (Seen(Code.PROBE_BLIND, "kernel"),)))
        await box.until(State.CLOSED)
        told = box.document()
        assert {each["reason"] for each in told["problems"]} == {"disk_full", "probe_blind"}
        (note, _) = sorted(told["notes"], key=lambda each: str(each["code"]))
        assert (note["code"], note["detail"], note["count"], note["lasts"]) == ("disk_full", "97 %", 1, True)
        assert not is_dark(box)
        await box.say.send(Reading(ProbeName.SENSOR))
        await box.until(State.OPEN)
        assert box.lock.counter == 1


async def test_the_sensor_cannot_speak_as_an_operator(box: Box) -> None:
    """Its readings are of its probes; quarantine by hand has a socket of its own."""
    async with box.running():
        await box.say.send(Reading(ProbeName.OPERATOR, (Seen(Code.OPERATOR_REQUEST, "x"),)))
        await box.well()
        await box.until(State.OPEN)
        assert box.watchdog.quarantine.darkness is Darkness.NONE


async def test_a_doubt_that_the_tpm_ends_leaves_nothing_dark(box: Box) -> None:
    """Neither the lease's thread nor the kernel goes on with it; the box opens when everything is proven."""
    (box.folder / "state" / JOURNAL_FILE).write_bytes(b"damaged")
    box.lock.absent = 2
    async with box.running():
        await box.until(State.IN_DOUBT)
        assert is_dark(box)
        assert box.document()["quarantine"]["phase"] == "in_doubt"
        with trio.fail_after(10):
            while box.watchdog.quarantine.darkness is not Darkness.NONE:  # noqa: ASYNC110
                await trio.sleep(0.01)
        await box.well()
        await box.until(State.OPEN)
        await trio.sleep(0.5)
        assert (is_dark(box), box.lease.is_open) == (False, True)


# -- the desk ----------------------------------------------------------------------------------------------------------


async def test_in_and_out_by_the_desk(box: Box) -> None:
    """Enter with a reason; release with two operators' signatures; then it waits for a restart, in the dark."""
    async with box.running():
        assert (await ask(box.socket, op="status"))["quarantine"] == {"phase": "none"}
        with pytest.raises(BsfgError, match="bad_input"):
            await ask(box.socket, op="enter", reason=" ")
        with pytest.raises(BsfgError, match="not_quarantined"):
            await ask(box.socket, op="release", document="{}")
        assert not is_dark(box)
        answer = await ask(box.socket, op="enter", reason="the cabinet was open")
        assert is_dark(box)
        assert answer["quarantine"]["code"] == "operator_request"
        assert answer["quarantine"]["detail"] == f"the cabinet was open (uid {os.getuid()})"
        with pytest.raises(BsfgError, match="bad_input"):
            await ask(box.socket, op="enter", reason="again")
        await box.completed()
        evidence = box.taker.digest(0)
        for wrong in (release_of(2, evidence, (0,)), release_of(3, evidence), b"{}"):
            with pytest.raises(DeniedError, match="bad_release"):
                await ask(box.socket, op="release", document=wrong.decode())
        answer = await ask(box.socket, op="release", document=release_of(2, evidence).decode())
        assert (answer["quarantine"]["phase"], is_dark(box), box.lock.locked) == ("released", True, False)
        assert "off and on" in answer["quarantine"]["next_step"]
        await box.until(State.RELEASED)
        await box.well()
        await trio.sleep(0.3)
        assert is_dark(box)


async def test_only_root_and_the_console_are_heard(box: Box) -> None:
    """Whoever else connects is told so, and sent away."""
    async with box.running(users=frozenset({12345})):
        with pytest.raises(DeniedError, match="caller_denied"):
            await ask(box.socket, op="enter", reason="x")
        assert not is_dark(box)


NO_REQUESTS = {
    "no JSON": b"enter\n",
    "no object": b"[]\n",
    "no op": b"{}\n",
    "unknown": b'{"op": "open"}\n',
    "a field too few": b'{"op": "enter"}\n',
    "a field too many": b'{"op": "status", "reason": ""}\n',
    "no text": b'{"op": "enter", "reason": 1}\n',
    "two lines": b'{"op": "status"}\n{"op": "status"}\n',
    "too long": b'{"op": "enter", "reason": "' + b"x" * REQUEST_BYTES + b'"}\n',
    "nested": b"[" * 5000 + b"\n",
    "no end": b'{"op": "status"}',
}


async def test_what_is_no_request_is_refused(box: Box) -> None:
    """And the next caller is served; so is one who comes while others hold connections and say nothing."""
    async with box.running():
        for name, data in NO_REQUESTS.items():
            stream = await trio.open_unix_socket(str(box.socket))
            async with stream:
                await stream.send_all(data)
                await stream.send_eof()
                answer = json.loads(await stream.receive_some(4096))
            assert (name, answer["ok"], answer["reason"]) == (name, False, "bad_request")
        assert (await ask(box.socket, op="status"))["quarantine"] == {"phase": "none"}
        held = [await trio.open_unix_socket(str(box.socket)) for _ in range(CALLERS)]
        with pytest.raises(UnavailableError, match="busy"):
            await ask(box.socket, op="status")
        for stream in held:
            await stream.aclose()
        with trio.fail_after(5):
            while True:
                try:
                    await ask(box.socket, op="status")
                except UnavailableError:
                    await trio.sleep(0.01)
                else:
                    break
    assert set(FIELDS) == {"status", "enter", "release", "evidence"}


async def test_a_watchdog_that_is_not_there(tmp_path: Path) -> None:
    """Or something else that listens: it does not answer."""
    with pytest.raises(UnavailableError, match="watchdog_unavailable"):
        await ask(tmp_path / "watchdog.sock", op="status")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "w"))
        other.listen()

        async def nonsense() -> None:
            accepted, _ = await trio.to_thread.run_sync(other.accept)
            accepted.recv(100)
            accepted.send(b'{"ok": false}\n')
            accepted.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(nonsense)
            with pytest.raises(UnavailableError, match="watchdog_unavailable"):
                await ask(tmp_path / "w", op="status")


# -- the command -------------------------------------------------------------------------------------------------------


async def run_cli(box: Box, *words: str, given: str = "") -> Result:
    """``bsfg quarantine ...`` beside the running watchdog."""
    command = ["quarantine", words[0], "--socket", str(box.socket), *words[1:]]
    return await trio.to_thread.run_sync(lambda: CliRunner().invoke(cli, command, input=given))


async def test_the_command_from_end_to_end(box: Box, tmp_path: Path) -> None:
    """Status, a dry run, a no, a yes, a wrong release, the right one; and what its exit codes say."""
    async with box.running():
        done = await run_cli(box, "status")
        assert (done.exit_code, done.output) == (0, "NOT IN QUARANTINE\n")
        done = await run_cli(box, "enter", "--reason", "the cabinet was open", "--dry-run")
        assert done.exit_code == 0
        assert "nothing was done" in done.output
        done = await run_cli(box, "enter", "--reason", "the cabinet was open", given="n\n")
        assert (done.exit_code, is_dark(box)) == (1, False)
        assert "not_confirmed" in done.output
        done = await run_cli(box, "enter", "--reason", "the cabinet was open", "--yes")
        assert (done.exit_code, is_dark(box)) == (5, True)
        await box.completed()
        done = await run_cli(box, "status")
        assert done.exit_code == 5
        assert (
            "why       operator_request: somebody with rights on the box asked for quarantine (the cab" in done.output
        )
        assert f"evidence  {box.taker.digest(0).hex()}" in done.output
        assert "do        Leave the box on. Call the operators" in done.output
        assert "2. Bring them the evidence" in done.output
        assert done.output.count("done in") == len(ORDER)
        as_json = json.loads((await run_cli(box, "status", "--output", "json")).output)
        assert (as_json["state"], as_json["counter"]) == ("quarantined", 2)
        file = tmp_path / "release.json"
        for content, why in (
            (release_of(9, box.taker.digest(0)), "it is for counter 9; here it is 2"),
            (release_of(2, box.taker.digest(0), (1,)), "1 of 2 operators"),
        ):
            file.write_bytes(content)
            done = await run_cli(box, "release", str(file), "--dry-run")
            assert done.exit_code == 4
            assert why in done.output
            done = await run_cli(box, "release", str(file))
            assert (done.exit_code, box.lock.locked) == (4, True)
        file.write_bytes(release_of(2, box.taker.digest(0)))
        done = await run_cli(box, "release", str(file), "--dry-run")
        assert (done.exit_code, box.lock.locked) == (5, True)
        done = await run_cli(box, "release", str(file))
        assert (done.exit_code, box.lock.locked, is_dark(box)) == (5, False, True)
        assert done.output.startswith("RELEASED")
        done = await run_cli(box, "release", str(file))
        assert (done.exit_code, "not_quarantined" in done.output) == (2, True)
    done = await run_cli(box, "status")
    assert (done.exit_code, "watchdog_unavailable" in done.output) == (3, True)


def test_the_ages_are_of_probes_that_there_are() -> None:
    """So that a box cannot wait for a reading that nobody makes."""
    assert set(READING_AGE_S) <= set(ProbeName)


def _not_rendered() -> Any:
    raise AssertionError("nothing looks here")


def test_every_probe_looks_in_one_of_the_two_processes(tmp_path: Path) -> None:
    """What is expected of the sensor is what it runs; and no probe is forgotten by both, or looked at by both."""
    (tmp_path / "node.toml").write_text('[node]\nzone = "plant-a"\n')
    choices = Choices(node=tmp_path / "node.toml", state=tmp_path, run=tmp_path, status=tmp_path, pki=tmp_path)
    parts = assemble(choices, KeeperClient(tmp_path / "keeper.sock"))
    made = probes(Places.below(tmp_path), tmp_path, _not_rendered)
    try:
        of_the_sensor = {probe.name for probe in made} | {ProbeName.SENSOR}
        here = [probe.name for probe in parts.local] + [probe.name for probe in parts.watchdog._probes]
    finally:
        for probe in (*made, *parts.local):
            probe.close()
    assert of_the_sensor == OF_THE_SENSOR
    assert len(here) == len(set(here))
    assert of_the_sensor.isdisjoint(here)
    assert of_the_sensor | set(here) == set(ProbeName) - {ProbeName.OPERATOR} == parts.watchdog.assessor.probes
