# SPDX-License-Identifier: Apache-2.0
"""The ladder: its order, what fails on the way, and a power cut between any two steps. The world is simulated here."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.keys.keeper.port import KeeperState, Latched
from appliance.keys.release import OperatorSignatures, Release
from appliance.keys.tpm.policy import BoundaryPolicy, DeviceRef
from appliance.keys.tpm.public import Attestation, Digest, sha256
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.case import Moment, open_case
from appliance.watchdog.quarantine.folder import ASIDE, CASE_FILE, JOURNAL_FILE, CaseFolder
from appliance.watchdog.quarantine.journal import Done, Journal, Phase
from appliance.watchdog.quarantine.ladder import PAUSES_S, Ladder
from appliance.watchdog.quarantine.resuming import DOUBT, Answer, Memory, Standing, answer_of, start_of
from appliance.watchdog.quarantine.runner import Quarantine, World
from appliance.watchdog.quarantine.states import TRANSITIONS, Darkness, Event
from appliance.watchdog.quarantine.steps import LADDER, ORDER, Step
from appliance.watchdog.suspicions import Code, ProbeName
from tests.contracts.quarantine import LockContract, LockWorld
from tests.fakes.lease import FakeLease
from tests.fakes.quarantine import FakeLock, FakeTaker
from tests.releases import PCRS
from tests.tpm import image_key, people

ZONE = ZoneId("plant-a")
PEOPLE, OPERATORS = people(2)
POLICY = BoundaryPolicy(DeviceRef(sha256(b"box")), OPERATORS, image_key().public_key())
SEEN = Seen(Code.KEXEC_LOADED, "an image of 9 MB")
READINGS = (Reading(ProbeName.KERNEL, (SEEN,)), Reading(ProbeName.DISK))


class PowerCut(BaseException):
    """The end of the process, or of the machine."""


def release_of(counter: int, evidence: Digest, signers: Sequence[int] = (0, 1), device: bytes = b"") -> bytes:
    """A release as operators sign it; none of the checks that their tool makes."""
    from appliance.keys.documents import sign_document
    from appliance.keys.operators import sign

    bare = Release(device or POLICY.device, counter, PCRS, evidence)
    fresh, again = POLICY.release_messages(POLICY.x(counter, PCRS))
    parts = [
        OperatorSignatures(
            number,
            sign(PEOPLE[number], fresh),
            sign(PEOPLE[number], again),
            sign_document(PEOPLE[number], "release", bare._values()),
        )
        for number in signers
    ]
    return replace(bare, signatures=tuple(parts)).render()


@dataclass
class FakeBox:
    """What outlives the watchdog's process: kernel, disk and TPM. A power cut takes the kernel's part."""

    folder: Path
    kernel: FakeLease
    lock: FakeLock
    taker: FakeTaker
    boots: int = 1
    told: int = 0
    dies_at: tuple[Step, bool] | None = None

    @classmethod
    def make(cls, folder: Path) -> FakeBox:
        """Healthy."""
        folder.mkdir(exist_ok=True)
        return cls(folder, FakeLease(lambda: 0.0), FakeLock(POLICY), FakeTaker())

    def power_cut(self) -> None:
        """The machine starts anew."""
        self.boots += 1
        self.kernel = FakeLease(lambda: 0.0)

    def process(self) -> Quarantine:
        """A new watchdog process."""
        return Quarantine(
            World(
                self.kernel,
                self.lock,
                self.taker,
                CaseFolder(self.folder),
                lambda: Moment(ZONE, f"boot-{self.boots}", 1_764_000_000_000 + self.boots, 1000, "1"),
                self._tell,
                clock=trio.current_time,
                blocking=_at_once,
                step_done=self._step_done,
            )
        )

    async def _tell(self) -> None:
        self.told += 1

    def _step_done(self, step: Step, written: bool) -> None:
        if self.dies_at == (step, written):
            self.dies_at = None
            raise PowerCut

    def journal(self) -> Journal | None:
        """As it is on the disk."""
        path = self.folder / JOURNAL_FILE
        return Journal.parse(path.read_bytes()) if path.exists() else None


async def _at_once(write: Callable[..., None], *values: object) -> None:
    write(*values)


def dark(box: FakeBox) -> bool:
    """Whether nothing leaves it now."""
    return box.kernel.is_dark


def open_now(box: FakeBox) -> bool:
    """Whether facts may leave it now."""
    return box.kernel.is_open


def state_of(quarantine: Quarantine) -> Darkness:
    """As it is now."""
    return quarantine.darkness


@pytest.fixture
def box(tmp_path: Path) -> FakeBox:
    """A healthy box."""
    return FakeBox.make(tmp_path / "watchdog")


async def until_idle(quarantine: Quarantine, limit_s: float = 600.0) -> None:
    """Let it do what is to be done; simulated time passes by itself."""
    with trio.move_on_after(limit_s):
        await quarantine.run()


def entered(box: FakeBox, seen: Seen = SEEN) -> Quarantine:
    """A process that has just gone into quarantine."""
    quarantine = box.process()
    assert quarantine.resume().standing is Standing.FREE
    assert quarantine.enter(seen, READINGS)
    return quarantine


class TestFakeLock(LockContract):
    """In memory."""

    @pytest.fixture
    def lock_world(self) -> LockWorld:
        """With two operators."""
        lock = FakeLock(POLICY)

        async def signed(evidence: Digest, signers: Sequence[int]) -> bytes:
            return release_of(lock.counter, evidence, signers)

        return LockWorld(lock, signed, lambda: None)


# -- in ----------------------------------------------------------------------------------------------------------------


def test_the_order_is_the_designs() -> None:
    """Cut, lock, evidence, told; and each step has its reasons."""
    assert ORDER == (Step.CUT, Step.CASE, Step.LOCK, Step.EVIDENCE, Step.TOLD)
    assert set(LADDER) == set(Step)
    assert [step for step in ORDER if not LADDER[step].waits] == [Step.CUT, Step.CASE]


async def test_it_is_cut_before_enter_returns(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """Without disk, TPM, or another task."""
    box.kernel.renew()
    assert open_now(box)
    entered(box)
    assert dark(box)
    assert not open_now(box)
    assert box.kernel.why == Code.KEXEC_LOADED
    assert list(box.folder.iterdir()) == []
    assert box.lock.calls == 0


async def test_every_step_is_done_once_in_its_order(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """And written down with what it gave."""
    seen: list[tuple[Step, bool]] = []
    quarantine = box.process()
    quarantine._world = replace(quarantine._world, step_done=lambda step, written: seen.append((step, written)))
    quarantine.resume()
    quarantine.enter(SEEN, READINGS)
    assert not quarantine.enter(Seen(Code.IPE_OFF), ()), "the first one stays"
    await until_idle(quarantine)
    assert [step for step, written in seen if written] == list(ORDER[1:])
    assert [step for step, written in seen if not written] == list(ORDER)
    journal = box.journal()
    assert journal is not None
    assert [done.step for done in journal.done] == list(ORDER)
    assert (box.lock.counter, len(box.taker.kept), box.told) == (2, 1, 1)
    case, latched = box.taker.kept[0]
    assert (case.code, case.detail, case.readings) == (SEEN.code, SEEN.detail, tuple(sorted(READINGS, key=str)))
    assert latched is not None
    assert (journal.latched, journal.evidence, journal.case) == (latched, box.taker.digest(0), case.digest())
    assert quarantine.banner().endswith(box.taker.digest(0).hex())


async def test_a_tpm_that_is_busy_is_asked_for_ever(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """With growing pauses; the uplink is dark meanwhile, and the case is on the disk."""
    box.lock.absent = 40
    quarantine = entered(box)
    await until_idle(quarantine, 5.0)
    assert quarantine.ladder is not None
    assert quarantine.ladder.journal.missing() == ORDER[2:]
    assert "tpm_absent" in quarantine.ladder.troubles[Step.LOCK].problem
    assert dark(box)
    journal = box.journal()
    assert journal is not None
    assert journal.missing() == ORDER[2:]
    quarantine._entered.set()
    await until_idle(quarantine, 60.0 + 40 * PAUSES_S[-1])
    assert (quarantine.ladder.journal.missing(), box.lock.counter) == ((), 2)


async def test_a_disk_that_takes_nothing_stops_neither_cut_nor_lock(
    box: FakeBox, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The TPM remembers; and what could not be written is written when there is room."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("appliance.watchdog.quarantine.folder.write_atomically", full)
    box.taker.full = 3
    quarantine = entered(box)
    await until_idle(quarantine, 5.0)
    assert dark(box)
    assert box.lock.locked
    assert quarantine.ladder is not None
    assert quarantine.ladder.journal.missing() == (Step.CASE,)
    assert "No space left" in quarantine.unwritten
    monkeypatch.undo()
    quarantine._entered.set()
    await until_idle(quarantine)
    assert (quarantine.ladder.journal.missing(), quarantine.unwritten) == ((), "")
    assert box.journal() == quarantine.ladder.journal


async def test_a_kernel_that_refuses_the_cut_does_not_stop_the_lock(
    box: FakeBox, autojump_clock: trio.testing.MockClock
) -> None:
    """It is tried again meanwhile, until it holds."""
    box.kernel.impenetrable = True
    quarantine = entered(box)
    await until_idle(quarantine, 5.0)
    assert box.lock.locked
    assert quarantine.ladder is not None
    assert quarantine.ladder.journal.missing() == (Step.CUT,)
    assert "firewall_fault" in quarantine.cut_problem
    box.kernel.impenetrable = False
    quarantine._entered.set()
    await until_idle(quarantine)
    assert (quarantine.ladder.journal.missing(), quarantine.cut_problem) == ((), "")
    assert dark(box)


# -- a power cut between any two steps ---------------------------------------------------------------------------------

KILLS = [(step, written) for step in ORDER for written in (False, True) if (step, written) != (Step.CUT, True)]


async def _until_death(quarantine: Quarantine) -> bool:
    try:
        await until_idle(quarantine)
    except PowerCut:
        return True
    return False


@pytest.mark.parametrize("power", [False, True], ids=["process", "machine"])
@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{kill[0]}-{'written' if kill[1] else 'done'}")
async def test_what_was_cut_off_is_completed_at_the_next_start(
    box: FakeBox, kill: tuple[Step, bool], power: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """After every step, written down or not; the counter is incremented once, and it was dark all the time."""
    box.dies_at = kill
    quarantine = box.process()
    quarantine.resume()
    try:
        quarantine.enter(SEEN, READINGS)
    except PowerCut:
        died = True
    else:
        died = await _until_death(quarantine)
    assert died
    if power:
        box.power_cut()
    again = box.process()
    start = again.resume()
    if power and kill[0] is Step.CUT:
        # The one moment of which nothing is left: the power failed in the milliseconds before the case was on the disk.
        assert start.standing is Standing.FREE
        return
    assert dark(box), "before anything else"
    assert again.ladder is not None
    assert again.ladder.journal.code is SEEN.code
    await until_idle(again)
    journal = box.journal()
    assert journal is not None
    assert journal.missing() == ()
    assert box.lock.counter == 2
    assert box.taker.kept[-1][0].digest() == journal.case
    assert journal.evidence == box.taker.digest(len(box.taker.kept) - 1)


def _random_faults(box: FakeBox, chance: random.Random) -> None:
    box.dies_at = chance.choice(KILLS) if chance.random() < 0.7 else None
    box.lock.absent = chance.choice([0, 0, 1, 5])
    box.taker.full = chance.choice([0, 0, 2])


@pytest.mark.parametrize("seed", range(40))
async def test_any_number_of_cuts_ends_in_one_quarantine(
    tmp_path: Path, seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Processes and machines die again and again, with a TPM and a disk that fail; two quarantines and a release."""
    chance, box = random.Random(seed), FakeBox.make(tmp_path / "watchdog")
    for number in (1, 2):
        quarantine = box.process()
        quarantine.resume()
        quarantine.enter(SEEN, READINGS)
        with trio.move_on_after(600):
            await _until_death(quarantine)
        for _ in range(chance.randrange(8)):
            _random_faults(box, chance)
            if chance.random() < 0.5:
                box.power_cut()
            quarantine = box.process()
            try:
                quarantine.resume()
            except PowerCut:
                continue
            assert dark(box)
            await _until_death(quarantine)
        box.dies_at, box.lock.absent, box.taker.full = None, 0, 0
        quarantine = box.process()
        quarantine.resume()
        assert dark(box)
        await until_idle(quarantine)
        journal = box.journal()
        assert journal is not None
        assert (journal.missing(), box.lock.counter) == ((), 1 + number)
        assert journal.evidence is not None
        await quarantine.release(release_of(box.lock.counter, journal.evidence))
        assert dark(box)
        box.power_cut()
        assert box.process().resume().standing is Standing.FREE
        assert not dark(box)


# -- what is remembered, and by whom -----------------------------------------------------------------------------------

MOMENT = Moment(ZONE, "boot-1", 1, 1, "1")
CASE = open_case(MOMENT, SEEN, READINGS)
OLD_CASE = open_case(replace(MOMENT, unix_ms=0), Seen(Code.IPE_OFF), ())
LATCHED = Latched(2, Attestation(b"s", b"g"))


def journal_of(case: Digest, *steps: Step, code: Code = SEEN.code) -> Journal:
    """A journal with these steps done."""
    journal = Journal(code, case)
    for step in steps:
        done = Done(step, 1, 2, "boot-1", 3, 1)
        journal = journal.with_done(
            done, LATCHED if step is Step.LOCK else None, CASE.digest() if step is Step.EVIDENCE else None
        )
    return journal


RELEASED = journal_of(OLD_CASE.digest(), *ORDER, code=Code.IPE_OFF).released("boot-0", 5)
STARTS: dict[str, tuple[Memory, Standing, Code | None]] = {
    "nothing": (Memory("boot-1"), Standing.FREE, None),
    "journal and case": (
        Memory("boot-1", CASE, journal_of(CASE.digest(), Step.CUT)),
        Standing.GO_ON,
        SEEN.code,
    ),
    "case alone": (Memory("boot-1", CASE), Standing.GO_ON, SEEN.code),
    "a new case beside an old release": (Memory("boot-1", CASE, RELEASED), Standing.GO_ON, SEEN.code),
    "journal alone": (Memory("boot-1", None, journal_of(CASE.digest(), *ORDER[:3])), Standing.ANEW, SEEN.code),
    "journal alone, evidence taken": (
        Memory("boot-1", None, journal_of(CASE.digest(), *ORDER)),
        Standing.GO_ON,
        SEEN.code,
    ),
    "another case": (Memory("boot-1", OLD_CASE, journal_of(CASE.digest(), *ORDER[:3])), Standing.ANEW, SEEN.code),
    "released before this start": (Memory("boot-1", OLD_CASE, RELEASED), Standing.FREE, None),
    "released since this start": (Memory("boot-0", OLD_CASE, RELEASED), Standing.AWAITS_RESTART, Code.IPE_OFF),
    "dark, and nothing on the disk": (Memory("boot-1", dark="ipe_off"), Standing.ANEW, Code.IPE_OFF),
    "dark, and the disk says released": (
        Memory("boot-1", OLD_CASE, RELEASED, dark="kexec_loaded"),
        Standing.ANEW,
        SEEN.code,
    ),
    "dark without a reason": (Memory("boot-1", dark=""), Standing.ANEW, Code.QUARANTINE_FORGOTTEN),
    "dark for no reason of ours": (Memory("boot-1", dark="disk_full"), Standing.ANEW, Code.QUARANTINE_FORGOTTEN),
    "damaged": (Memory("boot-1", damaged=True), Standing.IN_DOUBT, None),
    "damaged beside a case": (Memory("boot-1", CASE, damaged=True), Standing.IN_DOUBT, None),
    "damaged, and dark": (Memory("boot-1", damaged=True, dark="kexec_loaded"), Standing.ANEW, SEEN.code),
    "in doubt before": (Memory("boot-1", dark=DOUBT), Standing.IN_DOUBT, None),
    "a damaged case beside its journal": (
        Memory("boot-1", None, journal_of(CASE.digest(), *ORDER[:2]), damaged=True),
        Standing.ANEW,
        SEEN.code,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", STARTS)
def test_how_a_watchdog_begins(name: str) -> None:
    """From what it finds."""
    found, standing, code = STARTS[name]
    start = start_of(found)
    assert (start.standing, start.code) == (standing, code)
    if standing is Standing.GO_ON:
        assert start.journal is not None


def test_only_a_tpm_that_has_answered_ends_a_doubt() -> None:
    """Each state of the keeper says one of three things."""
    assert {state for state in KeeperState if answer_of(state) is Answer.FREE} == {
        KeeperState.READY,
        KeeperState.NOT_ENROLLED,
        KeeperState.TIME_UNKNOWN,
    }
    assert {state for state in KeeperState if answer_of(state) is Answer.LOCKED} == {KeeperState.LATCHED}


@pytest.mark.parametrize("locked", [False, True])
@pytest.mark.parametrize("name", [CASE_FILE, JOURNAL_FILE])
async def test_damaged_files_leave_it_to_the_tpm(
    box: FakeBox, name: str, locked: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Dark until it has answered: locked is quarantine, open is none, and the damaged file is out of the way."""
    (box.folder / name).write_bytes(b"damaged")
    box.lock.locked, box.lock.absent = locked, 5
    quarantine = box.process()
    assert quarantine.resume().standing is Standing.IN_DOUBT
    assert dark(box)
    await until_idle(quarantine, 3.0)
    assert (state_of(quarantine), dark(box)) == (Darkness.IN_DOUBT, True)
    quarantine._entered.set()
    await until_idle(quarantine)
    assert state_of(quarantine) is (Darkness.QUARANTINED if locked else Darkness.NONE)
    assert dark(box) == locked
    if locked:
        journal = box.journal()
        assert journal is not None
        assert (journal.code, journal.missing(), box.lock.counter) == (Code.KEY_LATCHED, (), 1)
        assert journal.latched is not None
    else:
        assert (box.folder / (name + ASIDE)).exists()
        box.power_cut()
        assert box.process().resume().standing is Standing.FREE


async def test_a_finding_ends_a_doubt_too(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """And the kernel remembers that, not the doubt."""
    (box.folder / JOURNAL_FILE).write_bytes(b"damaged")
    box.lock.absent = 2
    quarantine = box.process()
    quarantine.resume()
    assert box.kernel.why == DOUBT
    assert quarantine.enter(SEEN, READINGS)
    assert box.kernel.why == SEEN.code
    await until_idle(quarantine)
    assert box.lock.counter == 2


async def test_an_old_copy_of_the_disk_changes_nothing(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """Restored from before: the TPM says locked. From meanwhile, after the release: it is dark, and released again."""
    quarantine = entered(box)
    await until_idle(quarantine)
    copies = {path.name: path.read_bytes() for path in box.folder.iterdir()}
    journal = box.journal()
    assert journal is not None
    assert journal.evidence is not None
    for path in box.folder.iterdir():
        path.unlink()
    box.power_cut()
    forgetful = box.process()
    assert forgetful.resume().standing is Standing.FREE
    assert forgetful.enter(Seen(Code.KEY_LATCHED), ()), "which the key's probe says at its first look"
    await until_idle(forgetful)
    assert box.lock.counter == 2, "counted once"
    again = box.journal()
    assert again is not None
    assert again.evidence is not None
    with pytest.raises(BsfgError, match="bad_release"):
        await forgetful.release(release_of(2, journal.evidence))
    await forgetful.release(release_of(2, again.evidence))
    for name, data in copies.items():
        (box.folder / name).write_bytes(data)
    box.power_cut()
    restored = box.process()
    assert restored.resume().standing is Standing.GO_ON
    assert dark(box)
    await restored.release(release_of(2, journal.evidence))
    box.power_cut()
    assert box.process().resume().standing is Standing.FREE


# -- out ---------------------------------------------------------------------------------------------------------------


async def test_only_the_right_release_is_taken(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """And nothing changes by a wrong one; each says why."""
    quarantine = entered(box)
    with pytest.raises(UnavailableError, match="not done yet: case, lock, evidence, told"):
        await quarantine.release(release_of(2, sha256(b"?")))
    await until_idle(quarantine)
    evidence = box.taker.digest(0)
    wrong: dict[str, tuple[bytes, str]] = {
        "evidence": (release_of(2, sha256(b"?")), "over evidence"),
        "counter": (release_of(3, evidence), "it is for counter 3; here it is 2"),
        "old counter": (release_of(1, evidence), "it is for counter 1"),
        "one operator": (release_of(2, evidence, (0,)), "not signed by two operators"),
        "the same twice": (release_of(2, evidence, (1, 1)), "not signed by two operators"),
        "device": (release_of(2, evidence, device=b"\x01" * 32), "for another box"),
        "no release": (b"{}\n", "bad_release"),
        "cut off": (release_of(2, evidence)[:-2], "bad_release"),
    }
    before = {path.name: path.read_bytes() for path in box.folder.iterdir()}
    for name, (document, why) in wrong.items():
        with pytest.raises(BsfgError, match=why):
            await quarantine.release(document)
        assert (name, quarantine.darkness, box.lock.locked, dark(box)) == (
            name,
            Darkness.QUARANTINED,
            True,
            True,
        )
        assert {path.name: path.read_bytes() for path in box.folder.iterdir()} == before
    await quarantine.release(release_of(2, evidence))
    assert (state_of(quarantine), box.lock.locked, dark(box)) == (Darkness.RELEASED, False, True)
    for _ in range(2):
        with pytest.raises(BsfgError, match="not_quarantined"):
            await quarantine.release(release_of(2, evidence))
    assert not quarantine.enter(Seen(Code.IPE_OFF), ())
    restarted = box.process()
    assert restarted.resume().standing is Standing.AWAITS_RESTART, "a new process is no new start of the machine"
    assert dark(box)
    box.power_cut()
    fresh = box.process()
    assert fresh.resume().standing is Standing.FREE
    assert not dark(box)
    with pytest.raises(BsfgError, match="not_quarantined"):
        await fresh.release(release_of(2, evidence))
    fresh.enter(Seen(Code.IPE_OFF), ())
    await until_idle(fresh)
    with pytest.raises(BsfgError, match="over evidence"):
        await fresh.release(release_of(2, evidence))


async def test_two_who_bring_the_same_release(box: FakeBox, autojump_clock: trio.testing.MockClock) -> None:
    """Both are told that it was taken, or that there is nothing to release any more."""
    quarantine = entered(box)
    await until_idle(quarantine)
    document = release_of(2, box.taker.digest(0))
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(quarantine.release, document)
    assert state_of(quarantine) is Darkness.RELEASED


def test_what_the_table_says_is_reached() -> None:
    """From every state one can get to every other; and out of quarantine leads a release alone, and not at once."""
    assert {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()) == set(Darkness)
    assert {event for _, event in TRANSITIONS} == set(Event)
    out = {event for (state, event), to in TRANSITIONS.items() if state is Darkness.QUARANTINED and to is not state}
    assert out == {Event.RELEASE}
    assert {event for (state, event), to in TRANSITIONS.items() if to is Darkness.NONE} == {Event.OPENS, Event.RESTART}
    assert (Darkness.QUARANTINED, Event.OPENS) not in TRANSITIONS


async def test_a_release_that_cannot_be_written_down_is_an_error(
    box: FakeBox, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The TPM has it; the same file is taken again when there is room."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    quarantine = entered(box)
    await until_idle(quarantine)
    document = release_of(2, box.taker.digest(0))
    monkeypatch.setattr("appliance.watchdog.quarantine.folder.write_atomically", full)
    with pytest.raises(UnavailableError, match="disk_failed"):
        await quarantine.release(document)
    assert state_of(quarantine) is Darkness.QUARANTINED
    monkeypatch.undo()
    await quarantine.release(document)
    assert state_of(quarantine) is Darkness.RELEASED


# -- the journal -------------------------------------------------------------------------------------------------------

JOURNALS = [journal_of(CASE.digest(), *ORDER[:count]) for count in range(len(ORDER) + 1)]
JOURNALS.append(JOURNALS[-1].released("boot-1", 7))


@pytest.mark.parametrize("journal", JOURNALS, ids=lambda journal: f"{journal.phase}-{len(journal.done)}")
def test_a_journal_is_read_back_as_it_was_written(journal: Journal) -> None:
    """At every stage; and not if a byte of it is another one."""
    data = journal.render()
    assert Journal.parse(data) == journal
    for place in range(0, len(data), 7):
        mutant = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        other = None
        with contextlib.suppress(RefusedError):
            other = Journal.parse(mutant)
        assert other != journal


def test_a_journal_that_cannot_be_true_is_none() -> None:
    """A step without what it gives, a release that is none, a code that does not quarantine."""
    whole = JOURNALS[len(ORDER)]
    mutants = (
        replace(whole, latched=None),
        replace(whole, evidence=None),
        replace(whole, code=Code.DISK_FULL),
        replace(whole, phase=Phase.RELEASED),
        replace(JOURNALS[-1], released_boot_id=""),
        replace(JOURNALS[0], latched=LATCHED),
    )
    for mutant in mutants:
        with pytest.raises(BsfgError, match="bad_document"):
            Journal.parse(mutant.render())


def test_steps_that_fail_wait_longer_each_time() -> None:
    """The last pause for ever; what need not be waited for is done meanwhile."""
    ladder, now = Ladder(Journal(SEEN.code, CASE.digest())), 0.0
    for step in (Step.CUT, Step.CASE):
        assert ladder.due(now) is step
        ladder.failed(step, "x", now)
    assert ladder.due(now) is Step.LOCK
    for pause in (*PAUSES_S, PAUSES_S[-1]):
        ladder.troubles = {Step.CUT: ladder.troubles[Step.CUT], **ladder.troubles}
        for step in (Step.CUT, Step.CASE):
            ladder.failed(step, "x", 10_000.0)
        ladder.failed(Step.LOCK, "x", now)
        assert ladder.due(now + pause - 0.01) is None
        assert ladder.wait_s(now) == pytest.approx(pause)
        now += pause
        assert ladder.due(now) is Step.LOCK
