# SPDX-License-Identifier: Apache-2.0
"""The ladder on a real keeper, a software TPM and the kernel's own firewall: killed at every step, and completed."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from appliance.dev.processes import python_environment
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.port import KeeperState
from appliance.keys.release import add_signature, certified_counter, new_release
from appliance.keys.release_request import request_of
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.policy import COUNTER_INDEX, counter_public
from appliance.keys.tpm.public import Digest, p256_key
from appliance.watchdog.evidence.bundle import Bundle, digest_of
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.quarantine.case import Case
from appliance.watchdog.quarantine.folder import CASE_FILE, JOURNAL_FILE
from appliance.watchdog.quarantine.journal import Journal
from appliance.watchdog.quarantine.keeping import KeeperLock
from appliance.watchdog.quarantine.resuming import Standing
from appliance.watchdog.quarantine.steps import ORDER, Step
from appliance.watchdog.suspicions import Code
from tests.alone import until
from tests.contracts.quarantine import LockContract, LockWorld
from tests.keepers import PEOPLE, PLANT, KeeperProcess, Site, running_keeper
from tests.netns import Namespace, namespace
from tests.processes import run, running
from tests.service.test_watchdog_lease import RULES, make_uplink
from tests.tpm import SoftwareTpm, software_tpm
from tools.image.hardening.build import device_rules

KILLED = -signal.SIGKILL
LOADED = f"flush ruleset\n{RULES}{device_rules('uplink0')}"


async def release_for(keeper: KeeperClient, evidence: Digest, signers: Sequence[int] = (0, 1)) -> bytes:
    """What the operators sign: for the box as it is now, over this evidence."""
    told = await keeper.describe()
    box = EnrolledBox(PLANT, BirthPolicy.parse(told.policy), told.boundary_public, p256_key(told.ak_public))
    request = await request_of(keeper, evidence)
    release = new_release(box, request)
    for signer in signers:
        release = add_signature(box, request, release, PEOPLE[signer])
    return release.render()


@dataclass
class Machine:
    """What outlives the watchdog: a network, a TPM with its keeper, and a folder.

    :param boots: how often it was started. :param counter: the TPM's, as the last test left it.
    """

    folder: Path
    net: Namespace
    tpm: SoftwareTpm
    site: Site
    process: KeeperProcess
    boots: int = 0
    counter: int = field(default=1)

    @property
    def state(self) -> Path:
        """The watchdog's folder."""
        return self.folder / "watchdog"

    def boot(self, *, resets: bool = True) -> None:
        """Switch it off and on: the kernel has no memory of the dark, the TPM's PCRs begin anew.

        :param resets: ``False``: leave the TPM as it is, which saves a test's time.
        """
        if resets:
            self.process.stop()
            self.tpm.reset()
            self.process.start()
        self.net.nft(LOADED)
        self.boots += 1

    def watchdog(self, code: str = "", *dies: str) -> tuple[int, str]:
        """Run the victim; how it ended, and what it said."""
        victim = (sys.executable, "-P", "-B", "-m", "tests.quarantine_victim")
        given = (str(self.state), str(self.site.socket), f"boot-{self.boots}", code, *dies)
        root = Path(__file__).resolve().parent.parent.parent
        done = run(
            self.net.command(*victim, *given), env={**python_environment(), "PYTHONPATH": str(root)}, cwd=self.folder
        )
        assert done.returncode in {0, KILLED}, done.stderr
        return done.returncode, done.stdout.strip()

    def is_dark(self) -> bool:
        """In the kernel."""
        return all(
            "uplink0" in self.net.run("nft", "list", "set", table, "bsfg", "dark") for table in ("inet", "netdev")
        )

    def journal(self) -> Journal:
        """On the disk."""
        return Journal.parse((self.state / JOURNAL_FILE).read_bytes())

    def release(self) -> None:
        """Two operators release it, and it is started again."""
        evidence = self.journal().evidence
        assert evidence is not None

        async def released() -> None:
            await KeeperLock(self.site.client).release(await release_for(self.site.client, evidence))

        trio.run(released)
        (self.state / JOURNAL_FILE).write_bytes(self.journal().released(f"boot-{self.boots}", 1).render())
        self.boot(resets=False)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """One for all tests here, released after each."""
    folder = tmp_path_factory.mktemp("machine")
    (folder / "watchdog").mkdir()
    with software_tpm(folder / "tpm") as tpm, namespace() as net:
        make_uplink(net.run)
        net.nft(LOADED)
        site = Site(folder / "site", tpm.tcti)
        with running_keeper(site) as process:
            made = Machine(folder, net, tpm, site, process)
            trio.run(_enrolled, made)
            yield made


async def _enrolled(machine: Machine) -> None:
    await machine.site.enrol()
    await machine.site.tell_time()
    assert (await machine.site.client.status()).state is KeeperState.READY


class TestKeeperLock(LockContract):
    """By a keeper's socket."""

    @pytest.fixture
    def lock_world(self, machine: Machine) -> Iterator[LockWorld]:
        """Whatever the test leaves locked is released afterwards."""

        async def signed(evidence: Digest, signers: Sequence[int]) -> bytes:
            return await release_for(machine.site.client, evidence, signers)

        lock = KeeperLock(machine.site.client)
        yield LockWorld(lock, signed, machine.boot)

        async def opened() -> None:
            if await lock.state() is KeeperState.LATCHED:
                evidence = Digest(bytes(32))
                await lock.release(await release_for(machine.site.client, evidence))
            machine.counter = (await machine.site.client.status()).counter or 0

        trio.run(opened)


def completed(machine: Machine, counter: int) -> None:
    """All steps are done, the counter went up by one, and the evidence fits; the TPM's and the disk's."""
    journal = machine.journal()
    assert journal.missing() == ()
    assert machine.is_dark()
    assert journal.latched is not None
    assert journal.latched.counter == counter
    assert trio.run(machine.site.client.status).counter == counter
    assert certified_counter(journal.latched.certificate.statement, journal.case) == counter
    kept = EvidenceStore(machine.state / "evidence").latest()
    assert kept is not None
    data, _ = kept.read()
    assert digest_of(data) == journal.evidence
    assert Case.parse(Bundle.parse(data).case).digest() == journal.case
    machine.counter = counter


@pytest.mark.parametrize("step", ORDER)
def test_what_a_kill_cut_off_is_completed_by_the_next_process(machine: Machine, step: Step) -> None:
    """SIGKILL after each step, before it is written down: it is dark before anything else, and counts once.

    The moments after it is written down are played in ``tests/unit/test_quarantine_ladder.py``.
    """
    before = machine.counter
    assert machine.watchdog(Code.KEXEC_LOADED, step, "DONE")[0] == KILLED
    assert machine.is_dark()
    code, standing = machine.watchdog()
    assert (code, standing) == (0, Standing.ANEW if step is Step.CUT else Standing.GO_ON)
    assert machine.journal().code is Code.KEXEC_LOADED
    completed(machine, before + 1)
    machine.release()


def test_what_a_power_cut_cut_off_is_completed_at_the_next_start(machine: Machine) -> None:
    """The kernel has forgotten everything, and the TPM was reset; after its release and a restart it is free."""
    before = machine.counter
    assert machine.watchdog(Code.IPE_OFF, Step.LOCK, "DONE")[0] == KILLED
    machine.boot()
    assert not machine.is_dark()
    assert machine.watchdog() == (0, Standing.GO_ON)
    completed(machine, before + 1)
    machine.release()
    assert machine.watchdog() == (0, Standing.FREE)
    assert not machine.is_dark()


def test_it_is_dark_before_there_is_a_network(machine: Machine) -> None:
    """The program that runs before the network: dark on what the disk says, and only then; released, it is free."""
    before = machine.counter

    def boots() -> bool:
        machine.boot(resets=False)
        program = (sys.executable, "-P", "-B", "-m", "appliance.watchdog.quarantine", "--state", str(machine.state))
        done = run(machine.net.command(*program), env=python_environment(), cwd=machine.folder)
        assert done.returncode == 0, done.stderr
        return machine.is_dark()

    assert not boots(), "a free box has its network"
    assert machine.watchdog(Code.IPE_OFF)[0] == 0
    assert boots()
    assert machine.watchdog() == (0, Standing.GO_ON)
    completed(machine, before + 1)
    (machine.state / JOURNAL_FILE).rename(machine.state / "kept")
    assert boots(), "a case without a journal"
    (machine.state / JOURNAL_FILE).write_bytes(b"damaged")
    assert boots(), "nobody knows"
    (machine.state / "kept").rename(machine.state / JOURNAL_FILE)
    machine.release()
    assert not boots()


def test_a_keeper_that_dies_meanwhile_is_waited_for(machine: Machine) -> None:
    """The latch that it had begun is finished by its next process, and counted once."""
    before = machine.counter
    machine.process.stop(signal.SIGKILL)
    victim = machine.net.command(sys.executable, "-P", "-B", "-m", "tests.quarantine_victim")
    root = Path(__file__).resolve().parent.parent.parent
    environment = {**python_environment(), "PYTHONPATH": str(root)}
    given = (str(machine.state), str(machine.site.socket), f"boot-{machine.boots}", Code.IPE_OFF)
    with running([*victim, *given], env=environment, cwd=machine.folder) as process:
        until(lambda: machine.is_dark() and machine.journal().missing()[:1] == (Step.LOCK,), "case", 20)
        machine.process.start()
        assert process.wait(60) == 0
    completed(machine, before + 1)
    machine.release()


# -- the latch holds ---------------------------------------------------------------------------------------------------


def again_with_owner_rights(machine: Machine) -> None:
    """Somebody with the owner's authorisation makes the counter anew."""
    machine.process.stop()
    with Device(machine.tpm.tcti) as device:
        device.nv_undefine(COUNTER_INDEX)
        device.nv_define(counter_public())
        device.nv_increment(COUNTER_INDEX)
    machine.process.start()


def test_the_latch_outlives_whatever_is_done_to_the_disk(machine: Machine) -> None:
    """Folder wiped, files damaged, an old copy restored, indices made anew: dark, and one and the same counter.

    Each time the watchdog finds its way back into quarantine, and the evidence that counts is the last one.
    """
    before = machine.counter
    copy = machine.folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(machine.state, copy)  # from before
    assert machine.watchdog(Code.VERITY_CORRUPT)[0] == 0
    completed(machine, before + 1)
    first = machine.journal().evidence
    assert first is not None

    def wiped() -> None:
        shutil.rmtree(machine.state)
        machine.state.mkdir()

    def restored() -> None:
        shutil.rmtree(machine.state)
        shutil.copytree(copy, machine.state)

    def damaged() -> None:
        for name in (CASE_FILE, JOURNAL_FILE):
            (machine.state / name).write_bytes(b"\0" * 64)

    for attack in (wiped, restored, damaged):
        attack()
        machine.boot(resets=attack is wiped)
        code = "" if attack is damaged else Code.KEY_LATCHED  # which the key's probe says at its first look
        assert machine.watchdog(code)[0] == 0
        assert machine.journal().code is Code.KEY_LATCHED
        completed(machine, before + 1)
    last = machine.journal().evidence
    assert last is not None
    assert last != first
    again_with_owner_rights(machine)

    async def state() -> KeeperState:
        return await KeeperLock(machine.site.client).state()

    assert trio.run(state) is KeeperState.LATCHED
    assert machine.watchdog() == (0, Standing.GO_ON)
    assert machine.is_dark()


def test_the_times_of_the_steps_are_measured(machine: Machine) -> None:
    """They stand in the journal; the uplink is cut within a tenth of a second on any machine."""
    took = {done.step: done.took_us for done in machine.journal().done}
    assert set(took) == set(Step)
    assert took[Step.CUT] < 100_000
