# SPDX-License-Identifier: Apache-2.0
"""The keeper while its TPM is killed, stopped, reset or slow, and while it is killed itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.reasons import ExitCode
from appliance.keys.keeper.clock import KeeperClock
from appliance.keys.keeper.keeper import Keeper
from appliance.keys.keeper.port import KeeperState, KeeperStatus
from appliance.keys.tpm.connection import LOADED_SESSION, TRANSIENT, check_free
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.policy import BOUND_PCRS, IMAGE_PCR
from appliance.keys.tpm.public import sha256
from tests.keepers import ALL_ROLES, KeeperProcess, Site, running_keeper
from tests.tpm import SoftwareTpm, bus, software_tpm

RECEIPT = b"bsfg.v1 receipt\n"
EVIDENCE = sha256(b"evidence")
TIMEOUT_S = 1.0


class Running:
    """A keeper process with its TPM."""

    def __init__(self, tpm: SoftwareTpm, site: Site, process: KeeperProcess) -> None:
        self.tpm = tpm
        self.site = site
        self.process = process
        self.client = site.client

    async def ready(self) -> None:
        """Enrol it and tell it the time."""
        await self.site.enrol()
        await self.site.tell_time()
        await self.until(KeeperState.READY)

    async def until(self, *states: KeeperState) -> KeeperStatus:
        """Wait until it says so."""
        status = await self.client.status()
        with trio.move_on_after(15):
            while status.state not in states:
                await trio.sleep(0.05)
                status = await self.client.status()
        assert status.state in states, status
        return status

    def signal_tpm(self, number: signal.Signals) -> None:
        """Send the TPM's process a signal."""
        assert self.tpm.process is not None
        os.kill(self.tpm.process.pid, number)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    """A keeper that waits a second for its TPM."""
    with software_tpm(tmp_path / "tpm") as tpm:
        site = Site(tmp_path / "site", tpm.tcti, timeout_s=TIMEOUT_S)
        with running_keeper(site) as process:
            running = Running(tpm, site, process)
            yield running
            if tpm.process is not None:
                running.signal_tpm(signal.SIGCONT)


async def test_a_tpm_that_is_switched_off_and_on(running: Running) -> None:
    """Meanwhile: a state, an error at once, and the sessions of before; after: everything, by itself."""
    await running.ready()
    session = await running.client.session("agent")
    running.tpm.stop()
    with trio.fail_after(10), pytest.raises(UnavailableError, match="tpm_absent"):
        await running.client.sign(RECEIPT)
    await running.until(KeeperState.TPM_ABSENT)
    assert session.path.exists()
    assert await running.client.session("agent") == session
    running.tpm.start()
    status = await running.until(KeeperState.READY)
    assert status.problem == ""
    await running.client.sign(RECEIPT)
    for _ in range(3):  # and again between two calls, with nobody asking meanwhile
        running.tpm.reset()
        with trio.fail_after(10):
            await _signed(running)


async def _signed(running: Running) -> None:
    while True:
        try:
            await running.client.sign(RECEIPT)
            return
        except UnavailableError:
            await trio.sleep(0.05)


async def test_a_tpm_that_does_not_answer_hangs_nobody(running: Running) -> None:
    """Status answers at once, calls end in their time, and it goes on when the TPM does."""
    await running.ready()
    running.signal_tpm(signal.SIGSTOP)
    started = time.monotonic()
    with pytest.raises(UnavailableError, match=r"tpm_absent|tpm_busy"):
        await running.client.sign(RECEIPT)
    assert time.monotonic() - started < 3 * TIMEOUT_S + 1
    started = time.monotonic()
    assert (await running.client.status()).state in {KeeperState.TPM_ABSENT, KeeperState.TPM_BUSY}
    assert time.monotonic() - started < 0.5
    await trio.sleep(2.5 * TIMEOUT_S)  # several attempts to connect hang, too
    running.signal_tpm(signal.SIGCONT)
    await running.until(KeeperState.READY)
    await running.client.sign(RECEIPT)


async def test_a_slow_tpm_is_only_slow(tmp_path: Path) -> None:
    """50 ms for each command, as some have: sessions and signatures come, status waits for nothing."""
    with bus(tmp_path / "tpm") as wire:
        site = Site(tmp_path / "site", wire.tcti)
        with running_keeper(site):
            keeper = site.client
            await site.enrol()

            def slowly(answer: bytes) -> bytes:
                time.sleep(0.05)
                return answer

            wire.alter = slowly
            started = time.monotonic()
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(keeper.sign, RECEIPT)
                await trio.sleep(0.5)
                asked = time.monotonic()
                await keeper.status()
                assert time.monotonic() - asked < 0.5
            assert time.monotonic() - started > 3 * 0.7
            wire.alter = lambda answer: answer
            await site.tell_time()
            assert (await keeper.session("agent")).path.exists()


async def test_a_latch_that_the_tpm_does_not_hear_holds_all_the_same(running: Running) -> None:
    """From the call on nothing is signed, sealed secrets stay closed; a restart does not help; then it is done."""
    await running.ready()
    await running.client.seal("agent.token", b"secret")
    session = await running.client.session("agent")
    counter = (await running.client.status()).counter
    assert counter is not None
    running.signal_tpm(signal.SIGSTOP)
    with pytest.raises(UnavailableError, match=r"tpm_absent|tpm_busy"):
        await running.client.latch(EVIDENCE)
    assert not session.path.exists()
    await _nothing_works(running)
    running.process.stop(signal.SIGKILL)
    running.process.start()
    await _nothing_works(running)
    running.signal_tpm(signal.SIGCONT)
    with trio.fail_after(15):
        while (await running.client.status()).counter != counter + 1:  # noqa: ASYNC110 - another process
            await trio.sleep(0.05)
    await _nothing_works(running)
    assert (await running.client.latch(EVIDENCE)).counter == counter + 1


async def _nothing_works(running: Running) -> None:
    assert (await running.client.status()).state is KeeperState.LATCHED
    client = running.client
    for call in (client.sign(RECEIPT), client.session("agent"), client.unseal("agent.token")):
        with pytest.raises(DeniedError, match="key_latched"):
            await call


async def test_a_keeper_that_is_killed_leaves_nothing_behind(running: Running) -> None:
    """The time of this boot survives, and new sessions are there at once; no object stays in the TPM."""
    await running.ready()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(_ask_until_it_is_gone, running)
        for _ in range(3):
            await trio.sleep(0.15)
            running.process.restart(signal.SIGKILL)
            status = await running.until(KeeperState.READY)
            assert set(status.sessions) == {"agent", "control"}
        nursery.cancel_scope.cancel()
    assert running.process.stop() == 0
    with Device(running.tpm.tcti) as device:
        assert device.handles(TRANSIENT) == []
        assert len(device.handles(LOADED_SESSION)) == 1


async def _ask_until_it_is_gone(running: Running) -> None:
    while True:
        try:
            await running.client.sign(RECEIPT)
            await running.client.quote(bytes(32))
        except BsfgError:
            await trio.sleep(0.02)


async def test_many_calls_leave_no_object(running: Running) -> None:
    """Good ones and refused ones: the TPM has room for three objects and three sessions."""
    await running.ready()
    await running.client.seal("agent.token", b"secret")
    for number in range(6):
        await running.client.sign(RECEIPT)
        await running.client.unseal("agent.token")
        await running.client.quote(bytes(32))
        await running.client.certify(bytes(32))
        with pytest.raises(BsfgError):
            await running.client.activate(bytes([0, 4, 0, 0, 0, number]), bytes([0, 1, number]))
    assert (await running.client.status()).commands > 240


async def test_a_reset_of_the_tpm_alone_locks_the_key(running: Running) -> None:
    """Without a boot its PCRs are 0: the policy does not hold, and the state says so."""
    await running.ready()
    running.process.stop()
    running.site.write(running.tpm.tcti, {os.getuid(): ALL_ROLES}, TIMEOUT_S, boot=False)
    running.process.start()
    await running.until(KeeperState.READY)
    running.tpm.reset()
    with pytest.raises(DeniedError, match="tpm_refused"):
        await running.client.sign(RECEIPT)
    status = await running.until(KeeperState.TPM_REFUSED)
    assert "PCR 7, 12, 13, 15" in status.problem


@pytest.mark.parametrize("pcr", [*BOUND_PCRS, IMAGE_PCR])
async def test_a_machine_that_booted_otherwise_has_no_key(running: Running, pcr: int) -> None:
    """Any of the PCRs; the document says which, and no session stays."""
    await running.ready()
    session = await running.client.session("agent")
    running.process.stop()
    session.path.unlink()
    running.site.write(running.tpm.tcti, {os.getuid(): ALL_ROLES}, TIMEOUT_S, boot=False)
    with Device(running.tpm.tcti) as device:
        device.pcr_extend(pcr, EVIDENCE)
    running.process.start()
    with pytest.raises(DeniedError, match="image_not_signed" if pcr == IMAGE_PCR else f"tpm_refused.*PCR {pcr}"):
        await running.client.sign(RECEIPT)
    with pytest.raises(DeniedError):
        await running.client.session("agent")
    assert not session.path.exists()


async def test_two_keepers_do_not_share_a_folder(running: Running) -> None:
    """The second is told; the first goes on."""
    second = subprocess.run(KeeperProcess(running.site).command, capture_output=True, timeout=60, check=False)
    assert second.returncode == ExitCode.NOT_READY
    assert b"another keeper runs" in second.stderr
    assert (await running.client.status()).state is KeeperState.NOT_ENROLLED


async def test_what_it_writes_about_itself(running: Running) -> None:
    """The document says what the port says; the log says loudly that the TPM is none."""
    await running.ready()
    status = await running.client.status()
    with trio.fail_after(5):
        while True:
            document = json.loads((running.site.folder / "status" / "keeper.json").read_text())
            if document["state"] == "ready":
                break
            await trio.sleep(0.05)
    assert (document["kind"], document["zone"], document["counter"]) == ("swtpm", "plant-a", str(status.counter))
    assert set(document["sessions"]) == {"agent", "control"}
    assert "SOFTWARE TPM" in running.process.log.read_text()


class Steps:
    """A clock that the test sets."""

    def __init__(self, clock: KeeperClock, start: float) -> None:
        self.unix_s = start
        clock.unix_ms = lambda: int(self.unix_s * 1000)  # type: ignore[method-assign]
        clock.now = lambda: datetime.fromtimestamp(self.unix_s, UTC)  # type: ignore[method-assign]


async def test_an_hour_of_renewals_without_a_gap(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A simulated hour on a TPM: at every moment each file is good for minutes more."""
    await running.ready()
    running.process.stop()
    config = running.site.config
    clock = KeeperClock(config)
    steps = Steps(clock, time.time())
    keeper = Keeper(config, clock, lambda: 0.5)
    monkeypatch.setattr("appliance.keys.keeper.keeper.CHECK_EVERY_S", 3600)
    start = steps.unix_s
    try:
        while steps.unix_s < start + 3600:
            await keeper.tick()
            status = await keeper.status()
            assert all(session.ends_at - steps.unix_s > 290 for session in status.sessions.values())
            assert len(status.sessions) == 2
            steps.unix_s += 10
    finally:
        await keeper._worker.close()
    assert (await keeper.status()).renewals == 2 * 12


async def test_a_box_that_cannot_be_provisioned_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TPM that lacks a command, no operators' keys, a full disk; when that is mended it goes on by itself."""
    with software_tpm(tmp_path / "tpm") as tpm:
        site = Site(tmp_path / "site", tpm.tcti)
        config = site.config
        for folder in (config.state_dir, config.run_dir, config.session_dir, config.status_dir):
            folder.mkdir()
        keeper = Keeper(config, KeeperClock(config))

        async def says(state: KeeperState, problem: str) -> None:
            await trio.sleep(1)  # between attempts to connect
            await keeper.tick()
            status = await keeper.status()
            assert (status.state, problem in status.problem) == (state, True), status

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        try:
            with monkeypatch.context() as patch:
                patch.setattr(Device, "commands", lambda _: frozenset())
                await says(KeeperState.NOT_PROVISIONED, "tpm_unsupported: missing: policyauthorizenv")
            operators = (site.folder / "operators.pem").read_bytes()
            (site.folder / "operators.pem").unlink()
            await says(KeeperState.NOT_PROVISIONED, "operators.pem")
            (site.folder / "operators.pem").write_bytes(operators)
            with monkeypatch.context() as patch:
                patch.setattr("appliance.keys.tpm.provisioning.write_atomically", full)
                await says(KeeperState.NOT_PROVISIONED, "No space left")
            await says(KeeperState.NOT_ENROLLED, "")
            with monkeypatch.context() as patch:
                patch.setattr("appliance.keys.keeper.box.write_atomically", full)
                with pytest.raises(UnavailableError, match="No space left"):
                    await keeper.seal("agent.token", b"secret")
            await keeper.seal("agent.token", b"secret")
            assert await keeper.unseal("agent.token") == b"secret"
        finally:
            await keeper._worker.close()


def test_a_device_that_another_has_open_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``/dev/tpm0`` says it; anything else is absent."""
    device = tmp_path / "tpm0"
    with pytest.raises(UnavailableError, match="tpm_absent"):
        check_free(device)
    device.touch()
    check_free(device)

    def busy(*_: object) -> int:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "open", busy)
    with pytest.raises(UnavailableError, match="tpm_busy"):
        check_free(device)
