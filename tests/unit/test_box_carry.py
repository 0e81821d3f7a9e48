# SPDX-License-Identifier: Apache-2.0
"""Evidence leaves a box in quarantine on a USB stick: when it is written, what, and what a stick can do against it.

Real are the watchdog, its desk, its evidence, what copies, and a small file system of its own (tmpfs; with it "full"
and "write-protected" are the kernel's word). **Simulated** are systemd's part, the keeper, and FAT, which the kernels
that tests run on do not have. What a stick does that is pulled out is played by errors of ``os``.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box import carry, site
from appliance.box.applying import Applying
from appliance.box.carry import ASKS, PLACES, Carried, put
from appliance.box.layout import STATUS_GROUP, BoxLayout, User
from appliance.box.stick import AT_START_S, CARRY, CARRY_MOUNT, DRIVER, StickState
from appliance.keys.keeper.port import Latched
from appliance.keys.keeper.roles import GRANTS, Operation, Role
from appliance.keys.release import ReleaseRequest
from appliance.keys.tpm.public import Digest
from appliance.site.store import SiteStore
from appliance.watchdog.desk import ask
from appliance.watchdog.evidence import verifying
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, digest_of
from appliance.watchdog.evidence.outgoing import REQUEST, Outgoing
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.taking import KeptEvidence
from tests import sites
from tests.evidence import SimulatedQuarantine, some_sources
from tests.fakes.quarantine import FakeLock
from tests.keepers import PLANT
from tests.unit.test_box_stick import UNITS, Machine
from tests.unit.test_quarantine_ladder import POLICY, release_of
from tests.unit.test_watchdog_desk import Box as Watched

LATE = AT_START_S + 1
ROOM = 1 << 20
NAME = "evidence-plant-a-0123456789ab"
FILES = Carried(
    NAME, (("a.seal.json", b"seal"), ("a.request.json", b"request"), ("a.evidence.json", b"bundle" * 999)), True
)

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount")


@dataclass
class SimulatedKeeper(SimulatedQuarantine):
    """**A simulation**, with what a request for release asks besides. :param away: it does not answer."""

    away: bool = False

    async def status(self) -> Any:
        """See the keeper's port."""
        if self.away:
            raise UnavailableError(Reason.KEEPER_UNAVAILABLE, "not there")
        return self.box

    async def describe(self) -> Any:
        """See the keeper's port."""
        return await self.box.describe()


@dataclass
class Locking(FakeLock):
    """A lock whose statements are the simulated keeper's, so that evidence can be checked."""

    keeper: SimulatedKeeper = field(default_factory=SimulatedKeeper)

    def __init__(self, keeper: SimulatedKeeper) -> None:
        super().__init__(POLICY)
        self.keeper = keeper

    async def lock(self, case: Digest, *, counts: bool) -> Latched:
        """As the port says."""
        await super().lock(case, counts=counts)
        return self.keeper.latch(case)


@dataclass
class Case:
    """A configured box with its watchdog, and a stick."""

    machine: Machine
    watched: Watched
    keeper: SimulatedKeeper
    outgoing: Outgoing

    @classmethod
    def make(cls, folder: Path, stick: Path) -> Case:
        """In no quarantine; the stick asks for nothing."""
        at = BoxLayout(folder / "box")
        SiteStore(at.site).offer(sites.signed(1), "site.toml")
        site.run(at, Applying(at))
        at.watchdog_run.mkdir(parents=True)
        keeper = SimulatedKeeper()
        port: Any = keeper
        store = EvidenceStore(folder / "kept")
        watched = Watched.make(at.watchdog_run, Locking(keeper), KeptEvidence(port, some_sources(), store))
        (stick / "bsfg").mkdir()
        return cls(Machine(at, stick), watched, keeper, Outgoing(port, store, at.outgoing))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The watchdog is there."""
        async with self.watched.running(lay_out=self.outgoing.lay_out):
            yield

    async def quarantine(self) -> None:
        """With its evidence."""
        self.watched.watchdog.enter("for the test")
        await self.watched.completed()
        self.tell("quarantined")

    def tell(self, state: str) -> None:
        """What the status document says, which the stick's program believes for a start."""
        self.machine.at.status_document("watchdog").write_text(json.dumps({"state": state}))

    def asks(self, name: str = ASKS[0]) -> None:
        """The stick does."""
        self.machine.write(name, b"")

    async def put_in(self) -> dict[str, Any]:
        """The stick, at a moment at which only a quarantine expects it; what is said of it."""
        self.machine.asked.clear()
        return await trio.to_thread.run_sync(self.machine.put_in, 10 * LATE)

    @property
    def written(self) -> dict[str, bytes]:
        """All that is in folders of the stick's folder."""
        folder = self.machine.stick / "bsfg"
        return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.glob("*/*"))}

    @property
    def started(self) -> set[str]:
        """What systemd was asked to start."""
        return {words[-1] for words in self.machine.asked if words[0] == "start"}


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """With a stick that is a folder."""
    (tmp_path / "stick").mkdir()
    return Case.make(tmp_path, tmp_path / "stick")


@pytest.fixture
def medium(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own, with the options that a stick is mounted with."""
    folder = tmp_path / "medium"
    folder.mkdir()
    options = f"size={ROOM},nosuid,nodev,noexec"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# -- all of it ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASKS)
async def test_a_stick_that_asks_gets_evidence_that_holds(case: Case, name: str) -> None:
    """Bundle, seal and request: they hold against the box file, and the request is over this bundle."""
    async with case.running():
        await case.quarantine()
        case.asks(name)
        told = await case.put_in()
        assert (told["state"], case.machine.restarted) == (StickState.WRITTEN, False)
        seal, bundle, request = (next(data for name, data in case.written.items() if kind in name) for kind in
                                 (".seal.json", ".evidence.json", ".request.json"))  # fmt: skip
        assert len(case.written) == 3
        report = verifying.verify(bundle, seal, case.keeper.enrolled)
        assert report.lock is verifying.Lock.THIS_CASE
        asked = ReleaseRequest.parse(request)
        assert (asked.zone, asked.evidence, asked.counter) == (PLANT, digest_of(bundle), case.keeper.box.counter)
        (folder,) = {name.partition("/")[0] for name in case.written}
        assert folder == f"evidence-plant-a-{digest_of(bundle).hex()[:12]}"
        assert told["detail"] == f"bsfg/{folder} on the USB stick"
        before = case.written
        assert (await case.put_in())["state"] == StickState.WRITTEN, "again, and nothing is new"
        assert case.written == before


@pytest.mark.parametrize("lost", [".seal.json", ".evidence.json", ".request.json"])
async def test_a_second_time_completes_what_was_cut(case: Case, lost: str) -> None:
    """With the same bytes, also by another watchdog: the request is kept."""
    async with case.running():
        await case.quarantine()
        case.asks()
        await case.put_in()
        whole = case.written
        name = next(name for name in whole if lost in name)
        path = case.machine.stick / "bsfg" / name
        path.rename(path.with_name(f".{path.name}.partial"))
        (path.with_name(f".{path.name}.partial")).write_bytes(b"half")
        (case.machine.at.outgoing / REQUEST).unlink()
        assert (await case.put_in())["state"] == StickState.WRITTEN
        assert case.written == whole


async def test_another_state_of_the_box_makes_another_request(case: Case) -> None:
    """PCRs of another start: what the operators sign must be of now, and what is on the stick stays."""
    async with case.running():
        await case.quarantine()
        case.asks()
        await case.put_in()
        before = case.written
        case.keeper.box.pcrs[12] = b"\x0c" * 32
        assert (await case.put_in())["state"] == StickState.WRITTEN
        assert before.items() < case.written.items()
        new = {name: data for name, data in case.written.items() if name not in before}
        assert {name.partition("/")[0] for name in new} == {next(iter(before)).partition("/")[0] + "-2"}
        (request,) = (ReleaseRequest.parse(data) for name, data in new.items() if ".request." in name)
        assert request.pcrs[12] == b"\x0c" * 32


async def test_without_a_keeper_evidence_goes_alone(case: Case) -> None:
    """It is said, and the next time adds the request."""
    async with case.running():
        await case.quarantine()
        case.asks()
        case.keeper.away = True
        told = await case.put_in()
        assert (told["state"], len(case.written)) == (StickState.UNWRITTEN, 2)
        assert "no request" in told["detail"]
        case.keeper.away = False
        assert (await case.put_in())["state"] == StickState.WRITTEN
        assert len(case.written) == 3


def test_the_watchdog_may_ask_for_what_a_request_needs() -> None:
    """Its role at the keeper."""
    needed = {Operation.STATUS, Operation.DESCRIBE, Operation.CERTIFY, Operation.QUOTE}
    assert needed <= GRANTS[Role.WATCHDOG].operations


LAYS_OUT = """
import os, sys
from pathlib import Path
from appliance.watchdog.evidence.outgoing import Outgoing
os.umask(0o027); os.setgroups([]); os.setgid(955); os.setuid(955)
Outgoing(None, None, Path(sys.argv[1]))._write({"evidence.json": b"laid out"})
"""
"""What the watchdog does, as its user."""
WITHOUT_RIGHTS = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--groups=950", "--no-new-privs")
"""How bsfg-carry runs: as root without root's privileges, in the group bsfg."""


@needs_root
def test_root_without_privileges_reads_what_the_watchdog_lays_out() -> None:
    """By the kernel's word, with users and folders as on a box; and the watchdog's own folder it cannot read."""
    with tempfile.TemporaryDirectory() as name:
        run, state = Path(name) / "watchdog", Path(name) / "state"
        Path(name).chmod(0o755)
        for folder, mode, group in ((run, 0o2750, STATUS_GROUP), (state, 0o700, int(User.WATCHDOG))):
            folder.mkdir()
            os.chown(folder, int(User.WATCHDOG), group)
            folder.chmod(mode)
        (state / "evidence.json").write_bytes(b"kept")
        subprocess.run([sys.executable, "-c", LAYS_OUT, str(run / "outgoing")], check=True, timeout=60)

        def reads(path: Path, *rights: str) -> bytes:
            return subprocess.run([*rights, "cat", str(path)], capture_output=True, check=False, timeout=60).stdout

        assert reads(run / "outgoing/evidence.json", *WITHOUT_RIGHTS) == b"laid out"
        assert reads(state / "evidence.json", *WITHOUT_RIGHTS) == b""
        stranger = (*WITHOUT_RIGHTS[:3], "--groups=951", "--no-new-privs")
        assert reads(run / "outgoing/evidence.json", *stranger) == b""


# -- when --------------------------------------------------------------------------------------------------------------


async def test_nothing_is_written_without_quarantine_or_wish(case: Case) -> None:
    """No mount that can be written, whatever the stick says; nor by a status document that lies."""
    async with case.running():
        case.asks()
        case.tell("open")
        told = await trio.to_thread.run_sync(case.machine.put_in, 1.0)
        assert told["state"] == StickState.READ
        assert not case.started & {CARRY, CARRY_MOUNT}
        case.tell("quarantined")
        told = await case.put_in()
        assert (told["state"], case.written) == (StickState.UNWRITTEN, {})
        with pytest.raises(BsfgError) as caught:
            await ask(case.watched.socket, op="evidence")
        assert caught.value.reason is Reason.NOT_QUARANTINED
        assert not case.machine.at.outgoing.exists()
        await case.quarantine()
        (case.machine.stick / "bsfg" / ASKS[0]).unlink()
        told = await case.put_in()
        assert (told["state"], case.written) == (StickState.READ, {})
        assert not case.started & {CARRY, CARRY_MOUNT}
        assert "to fetch the evidence, put an empty file bsfg/take-evidence on it" in told["detail"]
        case.machine.at.carry.symlink_to(case.machine.stick)
        with pytest.raises(RefusedError, match="any more"):
            carry.carry(case.machine.at)
        case.machine.at.carry.unlink()
        case.asks()
        assert (await case.put_in())["state"] == StickState.WRITTEN


async def test_a_release_comes_first(case: Case) -> None:
    """A stick that brings one and asks besides: the box starts anew, and nothing is written onto the stick."""
    async with case.running():
        await case.quarantine()
        case.asks()
        ladder = case.watched.watchdog.quarantine.ladder
        assert ladder is not None
        assert ladder.journal.evidence is not None
        counter = ladder.journal.latched.counter if ladder.journal.latched else 0
        case.watched.lock.counter = counter
        case.machine.write("release.json", release_of(counter, ladder.journal.evidence))
        assert (await case.put_in())["state"] == StickState.RESTARTING
        assert case.written == {}
        assert not case.started & {CARRY, CARRY_MOUNT}
        with pytest.raises(BsfgError) as caught:
            await ask(case.watched.socket, op="evidence")
        assert caught.value.reason is Reason.NOT_QUARANTINED


async def test_a_write_protected_stick_and_one_that_is_stuck(case: Case) -> None:
    """It is not mounted by systemd; and what cannot be taken away again is not called done."""
    async with case.running():
        await case.quarantine()
        case.asks()
        case.machine.broken.add(CARRY_MOUNT)
        told = await case.put_in()
        assert (told["state"], told["detail"][:22]) == (StickState.UNWRITTEN, "it is write-protected ")
        assert case.machine.asked[-1] == ("stop", DRIVER)
        case.machine.broken = {CARRY}
        told = await case.put_in()
        assert (told["state"], "too long" in told["detail"]) == (StickState.UNWRITTEN, True), "it was killed"


async def test_a_stick_that_is_not_let_go_of(case: Case) -> None:
    """Its file system may not be whole."""
    async with case.running():
        await case.quarantine()
        case.asks()
        plain = case.machine.systemctl

        def stuck(*words: str) -> bool:
            return plain(*words) and words != ("stop", CARRY_MOUNT)

        case.machine.systemctl = stuck  # type: ignore[method-assign]
        assert (await case.put_in())["state"] == StickState.UNWRITTEN


# -- what a stick can do against it ------------------------------------------------------------------------------------


def names(folder: Path) -> set[str]:
    """All that is on it."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@needs_root
def test_a_full_stick_keeps_what_it_has(medium: Path) -> None:
    """Nothing half, nothing written over; with room again, all of it is there."""
    (medium / "filler").write_bytes(b"x" * (ROOM - 140 * 1024))
    large = replace(FILES, files=(*FILES.files[:2], ("a.evidence.json", b"e" * 100_000)))
    with pytest.raises(OSError, match="No space") as caught:
        put(medium, large)
    assert caught.value.errno == errno.ENOSPC
    assert names(medium) == {"filler", NAME}
    (medium / "filler").unlink()
    assert {path.name for path in put(medium, large).iterdir()} == {name for name, _ in FILES.files}


@needs_root
def test_a_stick_that_fills_up_meanwhile(medium: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says it has room, and has none: by the kernel's own error, in the middle of the bundle."""
    real = os.statvfs(medium)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*real[:3], 1 << 30, 1 << 30, *real[5:])))
    large = replace(FILES, files=(*FILES.files[:2], ("a.evidence.json", b"e" * (2 * ROOM))))
    with pytest.raises(OSError, match="No space"):
        put(medium, large)
    assert {path.name for path in (medium / NAME).iterdir()} == {"a.seal.json", "a.request.json"}


@needs_root
def test_a_stick_that_became_read_only(medium: Path) -> None:
    """As FAT does after an error."""
    subprocess.run(["mount", "-o", "remount,ro", str(medium)], check=True)
    with pytest.raises(OSError, match="Read-only") as caught:
        put(medium, FILES)
    assert caught.value.errno in carry.WHY


@pytest.mark.parametrize(
    ("call", "after"), [("mkdir", 0), *((call, after) for call in ("fsync", "rename", "open") for after in (0, 1, 2))]
)
def test_pulled_out_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int) -> None:
    """**Simulated**: whichever call fails, what has its name is whole; the next time everything is."""
    left = [after]

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **named: Any) -> Any:
            if str(arguments[0]).find("carried") < 0 and call != "fsync":
                return real(*arguments, **named)
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.EIO, "Input/output error")
            return real(*arguments, **named)

        return called

    folder = tmp_path / "carried"
    folder.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(os, call, failing(getattr(os, call)))
        with pytest.raises(OSError, match="Input/output"):
            put(folder, FILES)
    for path in (folder / NAME).glob("a.*"):
        assert path.read_bytes() == dict(FILES.files)[path.name]
    assert {path.name: path.read_bytes() for path in put(folder, FILES).iterdir()} == dict(FILES.files)


def a_file(path: Path) -> None:
    """Of the folder's name."""
    path.write_bytes(b"mine")


def other_bundle(path: Path) -> None:
    """A file of the right name and another content."""
    path.mkdir()
    (path / "a.evidence.json").write_bytes(b"forged")


def longer(path: Path) -> None:
    """One that begins as it should and does not end."""
    path.mkdir()
    (path / "a.seal.json").write_bytes(b"seal" + bytes(1 << 20))


def folder_in_the_way(path: Path) -> None:
    """Where the file would be."""
    (path / "a.seal.json").mkdir(parents=True)


def partial_folder(path: Path) -> None:
    """Where the file would be begun."""
    (path / ".a.seal.json.partial" / "x").mkdir(parents=True)


def link_out(path: Path) -> None:
    """FAT has none; the mount follows none either."""
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


def link_file(path: Path) -> None:
    """To a file beside it."""
    path.mkdir()
    (path.parent / "elsewhere").write_bytes(b"mine")
    (path / "a.seal.json").symlink_to(path.parent / "elsewhere")


def pipe(path: Path) -> None:
    """Which would never end."""
    path.mkdir()
    os.mkfifo(path / "a.evidence.json")


HOSTILE = (a_file, other_bundle, longer, folder_in_the_way, partial_folder, link_out, link_file, pipe)


@pytest.mark.parametrize("lay", HOSTILE, ids=lambda each: each.__name__)
def test_names_that_are_taken_are_left_alone(tmp_path: Path, lay: Callable[[Path], None]) -> None:
    """The evidence goes beside them, and what was there is as it was."""
    lay(tmp_path / NAME)

    def there() -> dict[str, bytes]:
        return {name: path.read_bytes() for name in names(tmp_path) if (path := tmp_path / name).is_file()}

    before = there()
    place = put(tmp_path, FILES)
    assert place == tmp_path / f"{NAME}-2"
    assert {path.name: path.read_bytes() for path in place.iterdir()} == dict(FILES.files)
    assert before.items() <= there().items()
    assert names(tmp_path) - names(place) >= set(before)
    if (tmp_path / "elsewhere").is_dir():
        assert not list((tmp_path / "elsewhere").iterdir())


def test_a_stick_that_has_every_name(tmp_path: Path) -> None:
    """Is refused; the search has an end."""
    for number in range(1, PLACES + 1):
        a_file(tmp_path / (NAME if number == 1 else f"{NAME}-{number}"))
    with pytest.raises(RefusedError, match="another stick"):
        put(tmp_path, FILES)


def test_what_does_not_fit_together_is_not_carried(case: Case) -> None:
    """Whoever laid it out."""
    at = case.machine.at
    at.outgoing.mkdir()
    for name in ("evidence.json", "seal.json"):
        (at.outgoing / name).write_bytes(b"#" * (BUNDLE_BYTES + 1))
    with pytest.raises(ValueError, match="more than"):
        carry.laid_out(at.outgoing)


# -- systemd's part, by its text ---------------------------------------------------------------------------------------


def test_it_is_mounted_without_anything_that_could_run() -> None:
    """In a place of its own, and not at all if it cannot be written."""
    unit = (UNITS / CARRY_MOUNT).read_text("utf-8")
    options = set(re.findall(r"^Options=(.+)$", unit, re.MULTILINE)[0].split(","))
    assert options == {"rw", "nosuid", "nodev", "noexec", "nosymfollow", "umask=0077"}
    where = re.findall(r"^(?:What|Where|Type|ReadWriteOnly)=(.+)$", unit, re.MULTILINE)
    assert where == ["/dev/bsfgstick", "/run/bsfg/carry", "vfat", "yes"]
    assert BoxLayout().carry == Path("/run/bsfg/carry")
    assert "[Install]" not in unit
    assert f"BindsTo={CARRY_MOUNT}" in (UNITS / CARRY).read_text("utf-8")
