# SPDX-License-Identifier: Apache-2.0
"""Kinds of tampering with a box that the sensor's and the kernel's probes must find: one table, for tests and benches.

Each line makes a scene: a probe that sees nothing wrong, something to do, and how to undo it. ``real`` is done to the
kernel's own state in namespaces (:mod:`tests.boxspace`); what is not is **simulated** in a laid-out tree.
"""

from __future__ import annotations

import os
import pty
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from appliance.box.applying import Applying
from appliance.box.layout import BoxLayout
from appliance.box.rendering import Rendered
from appliance.box.site import run as run_site
from appliance.watchdog.probes.configuration import ConfigurationProbe
from appliance.watchdog.probes.disk import DiskProbe
from appliance.watchdog.probes.executables import ExecutablesProbe
from appliance.watchdog.probes.firmware import IMAGES, FirmwareProbe
from appliance.watchdog.probes.hardware import HardwareProbe
from appliance.watchdog.probes.kernel import KernelProbe
from appliance.watchdog.probes.mountinfo import parse as mounts_of
from appliance.watchdog.probes.mounts import MountsProbe, table_of
from appliance.watchdog.probes.places import Places
from appliance.watchdog.probes.scrub import Scrub
from appliance.watchdog.probes.units import Unit, UnitFiles
from appliance.watchdog.probes.verity import BLOCK_NUMBER, VerityProbe
from appliance.watchdog.probing import Probe, Reading
from appliance.watchdog.suspicions import Code, ProbeName
from tests import sites
from tests.boxspace import BoxSpace, loop_device
from tests.laidout import MOUNTS, LaidOut, SaidByKernel

ROOT: Final = "/devices/virtual/block/dm-0"
UNIT: Final = "bsfg-agent.service"
SLEEP: Final = "/usr/bin/sleep"


@dataclass(slots=True)
class Scene:
    """A probe, something that is wrong, and how to make it good again. :param lasting: it cannot be made good."""

    probe: Probe
    inject: Callable[[], object]
    undo: Callable[[], object] = lambda: None
    lasting: bool = False

    def look_for(self, code: Code, looks: int = 100) -> Reading:
        """Look until it is seen. :raises AssertionError: it is not, or something else is."""
        reading = self.probe.look()
        for _ in range(looks):
            if reading.seen:
                break
            time.sleep(0.01)
            reading = self.probe.look()
        assert {each.code for each in reading.seen} == {code}, reading
        return reading


@dataclass(slots=True)
class Ground:
    """Where scenes are made. :param folder: a new one for each scene."""

    folder: Path
    space: BoxSpace
    stack: ExitStack = field(default_factory=ExitStack)
    ticks: float = 0.0

    def tree(self) -> LaidOut:
        """A laid-out tree, all well."""
        return LaidOut(self.folder / "box")

    def clock(self) -> float:
        """Two seconds pass at each look."""
        self.ticks += 2.0
        return self.ticks


@dataclass(frozen=True, slots=True)
class Tampering:
    """One kind. :param what: in words. :param real: it is done to the kernel's state."""

    code: Code
    what: str
    scene: Callable[[Ground], AbstractContextManager[Scene]]
    real: bool = False

    @property
    def label(self) -> str:
        """For lists."""
        return f"{self.code}: {self.what}"


# -- simulated: a laid-out tree ----------------------------------------------------------------------------------------


def _laid_out(
    probe: Callable[[LaidOut], Probe], inject: Callable[[LaidOut], object], undo: Callable[[LaidOut], object]
) -> Callable[[Ground], AbstractContextManager[Scene]]:
    @contextmanager
    def scene(ground: Ground) -> Iterator[Scene]:
        tree = ground.tree()
        made = probe(tree)
        try:
            yield Scene(made, lambda: inject(tree), lambda: undo(tree))
        finally:
            made.close()

    return scene


def _kernel(name: str, bad: str, good: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    return _laid_out(
        lambda tree: KernelProbe(tree.places), lambda tree: tree.put(name, bad), lambda tree: tree.put(name, good)
    )


def _mounted(old: str, new: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    """By the table of a real box's mounts. :param old: what is replaced in it."""
    assert old in MOUNTS
    return _laid_out(
        lambda tree: MountsProbe(tree.places),
        lambda tree: tree.mounts(MOUNTS.replace(old, new)),
        lambda tree: tree.mounts(MOUNTS),
    )


def _added(line: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    return _mounted(MOUNTS, MOUNTS + line + "\n")


def _firmware(name: str, bad: bytes, good: bytes, owner: str = "") -> Callable[[Ground], AbstractContextManager[Scene]]:
    more = (owner,) if owner else ()
    return _laid_out(
        lambda tree: FirmwareProbe(tree.places, tree.kept),
        lambda tree: tree.variable(name, bad, *more),
        lambda tree: tree.variable(name, good, *more),
    )


def _disk(name: str, bad: str, good: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    return _laid_out(
        lambda tree: DiskProbe(tree.places), lambda tree: tree.put(name, bad), lambda tree: tree.put(name, good)
    )


def idle_scrub(device: Path) -> Scrub:
    """One that does not begin by itself."""
    return Scrub(device, first_s=3600.0)


def _verity_tree(name: str, bad: str, good: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    return _laid_out(
        lambda tree: VerityProbe(tree.places, SaidByKernel, idle_scrub),
        lambda tree: tree.put(f"sys{ROOT}/{name}", bad),
        lambda tree: tree.put(f"sys{ROOT}/{name}", good),
    )


def _verity_event(**values: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    @contextmanager
    def scene(ground: Ground) -> Iterator[Scene]:
        kernel = SaidByKernel()
        probe = VerityProbe(ground.tree().places, lambda: kernel, idle_scrub)
        try:
            yield Scene(probe, lambda: kernel.say("change", ROOT, values), lasting=True)
        finally:
            probe.close()

    return scene


@contextmanager
def _plugged_in(ground: Ground) -> Iterator[Scene]:
    kernel, tree = SaidByKernel(), ground.tree()
    probe = HardwareProbe(tree.places, lambda: kernel, clock=ground.clock)
    values = {"DEVTYPE": "usb_device", "PRODUCT": "781/5567/100", "SUBSYSTEM": "usb"}

    def an_hour() -> None:
        ground.ticks += 3600.0

    try:
        yield Scene(probe, lambda: kernel.say("add", "/devices/pci0/usb1/1-2", values), an_hour)
    finally:
        probe.close()


def _opened(name: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    return _laid_out(
        lambda tree: HardwareProbe(tree.places, SaidByKernel),
        lambda tree: tree.put(name, 1),
        lambda tree: tree.put(name, 0),
    )


# -- real: files, mounts, processes ------------------------------------------------------------------------------------


@contextmanager
def configured(ground: Ground) -> Iterator[tuple[BoxLayout, ConfigurationProbe]]:
    """A box's folder with a site configuration taken, and its files made from that; really, by bsfg-site's own code."""
    at = BoxLayout(ground.folder / "configured")
    at.candidate.parent.mkdir(parents=True)
    at.candidate.write_bytes(sites.signed(1, name="two-nics"))
    run_site(at, Applying(at))
    at.sensor_run.mkdir(parents=True)
    (at.run.parent / "systemd/generator").mkdir(parents=True)
    (at.run.parent / "systemd/generator/var.mount").write_text("[Mount]\nWhat=/dev/mapper/var\n")
    probe = ConfigurationProbe(Places.below(at.root), at.sensor_run, Rendered(at))
    try:
        yield at, probe
    finally:
        probe.close()


def _file(path: Callable[[BoxLayout], Path], text: str) -> Callable[[Ground], AbstractContextManager[Scene]]:
    """A file is written, or something is added to it."""

    @contextmanager
    def scene(ground: Ground) -> Iterator[Scene]:
        with configured(ground) as (at, probe):
            target = path(at)
            before = target.read_bytes() if target.exists() else None

            def inject() -> None:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes((before or b"") + text.encode())

            def undo() -> None:
                if before is None:
                    target.unlink()
                else:
                    target.write_bytes(before)

            yield Scene(probe, inject, undo)

    return scene


@contextmanager
def _another_signer(ground: Ground) -> Iterator[Scene]:
    with configured(ground) as (at, probe):
        good, other = at.applied_site.read_bytes(), sites.signed(2, name="two-nics", by="somebody else")
        yield Scene(probe, lambda: at.applied_site.write_bytes(other), lambda: at.applied_site.write_bytes(good))


def _in_space(
    words: Callable[[BoxSpace], list[list[str | Path]]],
    undo: tuple[str, ...] = (),
    *,
    before: tuple[tuple[str, ...], ...] = (),
) -> Callable[[Ground], AbstractContextManager[Scene]]:
    """Something is mounted in the namespaces; what was mounted there before is the image's."""

    @contextmanager
    def scene(ground: Ground) -> Iterator[Scene]:
        space = ground.space
        for command in (("mount", "-t", "tmpfs", "-o", "nosuid,nodev,noexec", "var", "/var/tmp"), *before):  # noqa: S108
            space.run(*command)
        space.run("mount", "-o", "remount,bind,ro", "/")
        probe = MountsProbe(space.places, table_of(space.places.mountinfo.read_text("utf-8")))
        try:
            yield Scene(probe, lambda: [space.run(*each) for each in words(space)], lambda: undo and space.run(*undo))
        finally:
            probe.close()
            space.run("mount", "-o", "remount,bind,rw", "/")
            space.run("umount", "/var/tmp")  # noqa: S108

    return scene


@contextmanager
def _for_one_service(ground: Ground) -> Iterator[Scene]:
    """A process with a table of mounts of its own, in which something lies over a folder of the system."""
    space, stack = ground.space, ExitStack()
    space.run("mount", "-o", "remount,bind,ro", "/")
    points = [each.point for each in mounts_of(space.places.mountinfo.read_text("utf-8"))]
    bound = "/run/netns" in points  # the same file system as / on machines that are no box
    if bound:
        space.run("umount", "--lazy", "/run/netns")
    probe = MountsProbe(space.places, table_of(space.places.mountinfo.read_text("utf-8")))
    script = f"mount -t tmpfs x /usr/games && exec {SLEEP} 600"
    words = ("unshare", "--mount", "--propagation=private", "sh", "-c", script)
    try:
        yield Scene(probe, lambda: stack.enter_context(space.process(*words, runs="sleep")), stack.close)
    finally:
        stack.close()
        probe.close()
        space.run("mount", "-o", "remount,bind,rw", "/")


@contextmanager
def _program_of_memory(ground: Ground) -> Iterator[Scene]:
    """Code that is in no file system at all (memfd)."""
    code = (
        "import os, sys\nfd = os.memfd_create('x', 0)\n"
        f"os.write(fd, open({SLEEP!r}, 'rb').read())\nos.execve(fd, ['sleep', '600'], {{}})\n"
    )
    with processes(ground) as (probe, stack):
        yield Scene(
            probe,
            lambda: stack.enter_context(
                ground.space.process(*as_agent(sys.executable, "-c", code), unit=UNIT, runs="sleep")
            ),
            stack.close,
        )


@contextmanager
def _program_of_tmpfs(ground: Ground) -> Iterator[Scene]:
    """A program of the image, copied to a place that can be written."""
    space = ground.space
    space.run("mount", "-t", "tmpfs", "x", "/media")
    space.run("cp", SLEEP, "/media/sleep")
    try:
        with processes(ground) as (probe, stack):
            yield Scene(
                probe,
                lambda: stack.enter_context(space.process(*as_agent("/media/sleep", "600"), unit=UNIT, runs="sleep")),
                stack.close,
            )
    finally:
        space.run("umount", "-l", "/media")


@contextmanager
def _library_of_tmpfs(ground: Ground) -> Iterator[Scene]:
    """A library from a place that can be written, in a process that runs the right program."""
    space = ground.space
    space.run("mount", "-t", "tmpfs", "x", "/media")
    library = next(Path("/usr/lib").glob("*-linux-gnu/libm.so.6"))
    space.run("cp", str(library), "/media/lib.so")
    loading = as_agent("env", "LD_PRELOAD=/media/lib.so", SLEEP, "600")
    try:
        with processes(ground) as (probe, stack):
            yield Scene(
                probe,
                lambda: stack.enter_context(space.process(*loading, unit=UNIT, runs="sleep")),
                stack.close,
            )
    finally:
        space.run("umount", "-l", "/media")


@contextmanager
def processes(ground: Ground) -> Iterator[tuple[ExecutablesProbe, ExitStack]]:
    """The agent's unit runs ``sleep`` as user 954 without any privilege."""
    units = ground.folder / "units"
    units.mkdir()
    (units / UNIT).write_text(f"[Service]\nUser=954\nExecStart={SLEEP} 600\nCapabilityBoundingSet=\n")
    (units / "holder.service").write_text(f"[Service]\nExecStart={SLEEP} 600\n")
    space = ground.space
    probe = ExecutablesProbe(space.places, _Holding(units), frozenset({os.stat(SLEEP).st_dev}))
    with ExitStack() as stack, space.process(*as_agent(SLEEP, "600"), unit=UNIT, runs="sleep"):
        yield probe, stack


class _Holding(UnitFiles):
    """The namespaces' own first process is in no unit of a box; and there is only one unit."""

    def find(self, name: str) -> Unit | None:
        """As the class says."""
        return UnitFiles.find(self, UNIT if name == UNIT else "holder.service")


def as_agent(*words: str) -> tuple[str, ...]:
    """Run as the agent's unit runs it."""
    return ("setpriv", "--reuid=954", "--regid=954", "--clear-groups", "--inh-caps=-all", *words)


@contextmanager
def _unexpected(ground: Ground) -> Iterator[Scene]:
    """A program of the image that the agent's unit does not start."""
    with processes(ground) as (probe, stack):
        words = as_agent("/usr/bin/tail", "-f", "/dev/null")
        yield Scene(
            probe,
            lambda: stack.enter_context(ground.space.process(*words, unit=UNIT, runs="tail")),
            stack.close,
        )


@contextmanager
def _privileged(ground: Ground) -> Iterator[Scene]:
    """The right program, with rights and a user that its unit does not give."""
    with processes(ground) as (probe, stack):
        yield Scene(probe, lambda: stack.enter_context(ground.space.process(SLEEP, "600", unit=UNIT)), stack.close)


@contextmanager
def _traced(ground: Ground) -> Iterator[Scene]:
    """Another process of the box traces the agent (PTRACE_SEIZE)."""
    code = (
        "import ctypes, os, sys, time\n"
        "if ctypes.CDLL(None).ptrace(0x4206, int(sys.argv[1]), 0, 0): raise SystemExit('cannot trace')\n"
        "time.sleep(600)\n"
    )
    with processes(ground) as (probe, stack):
        space = ground.space

        def inject() -> None:
            pid = stack.enter_context(space.process(*as_agent(SLEEP, "601"), unit=UNIT, runs="sleep"))
            inside = _field(pid, "NSpid").split()[-1]
            stack.enter_context(space.process(sys.executable, "-c", code, inside))
            end = time.monotonic() + 10
            while _field(pid, "TracerPid") == "0":
                assert time.monotonic() < end, "it cannot be traced"
                time.sleep(0.005)

        yield Scene(_Only(probe, Code.PROCESS_TRACED), inject, stack.close)


@dataclass(slots=True)
class _Only:
    """The tracer is no program of the box either, which has a code of its own; here only one is looked at."""

    probe: Probe
    code: Code

    name = ProbeName.EXECUTABLES
    period_s = 1.0

    def look(self) -> Reading:
        """What the probe sees of that one."""
        reading = self.probe.look()
        return replace(reading, seen=tuple(each for each in reading.seen if each.code is self.code))

    def descriptor(self) -> int | None:
        """The probe's."""
        return self.probe.descriptor()

    def close(self) -> None:
        """The probe's."""
        self.probe.close()


def _field(pid: int, name: str) -> str:
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].strip()
    raise AssertionError(name)


@contextmanager
def _at_a_terminal(ground: Ground) -> Iterator[Scene]:
    """A process whose controlling terminal is a real one."""
    probe = HardwareProbe(ground.space.places, SaidByKernel)
    master, slave = pty.openpty()
    words = ("setsid", "--ctty", SLEEP, "600")
    stack = ExitStack()
    try:
        yield Scene(
            probe,
            lambda: stack.enter_context(ground.space.process(*words, runs="sleep", standard_input=slave)),
            stack.close,
        )
    finally:
        stack.close()
        probe.close()
        os.close(master)
        os.close(slave)


@contextmanager
def _full(ground: Ground) -> Iterator[Scene]:
    """A real file system, filled."""
    space = ground.space
    space.run("mount", "-t", "tmpfs", "-o", "size=1m", "x", "/media")
    tree = ground.tree()
    places = Places(tree.places.proc, tree.places.sys, var=space.root / "media")
    filler = space.root / "media/filler"
    try:
        yield Scene(DiskProbe(places), lambda: filler.write_bytes(bytes(990 * 1024)), filler.unlink)
    finally:
        space.run("umount", "-l", "/media")


@contextmanager
def _unreadable(ground: Ground) -> Iterator[Scene]:
    """A real loop device whose file was cut: its blocks cannot be read, and the kernel says nothing about hashes."""
    tree = ground.tree()
    backing = tree.put("image", bytes(4 * 1024 * 1024))
    with loop_device(backing) as device:
        scrub = Scrub(device, first_s=3600.0, rate=2**40)
        probe = VerityProbe(tree.places, SaidByKernel, lambda _: scrub)

        def cut() -> None:
            os.truncate(backing, 3 * 1024 * 1024)
            scrub.round()

        def whole() -> None:
            os.truncate(backing, 4 * 1024 * 1024)
            scrub.round()

        try:
            yield Scene(probe, cut, whole)
        finally:
            probe.close()


_TMPFS: Final = ("mount", "-t", "tmpfs", "x")
_C = Code
TAMPERINGS: Final = (
    Tampering(_C.VERITY_CORRUPT, "the kernel met a corrupt block", _verity_event(**{BLOCK_NUMBER: "0,4711"})),
    Tampering(_C.VERITY_CORRUPT, "the kernel met a corrupt hash", _verity_event(**{BLOCK_NUMBER: "1,3"})),
    Tampering(_C.VERITY_OFF, "another mapping was loaded", _verity_event(DM_COOKIE="6320")),
    Tampering(_C.VERITY_OFF, "the root is not verified", _verity_tree("dm/uuid", "CRYPT-PLAIN-x", "CRYPT-VERITY-4f0b")),
    Tampering(_C.VERITY_OFF, "the root can be written", _verity_tree("ro", "0", "1")),
    Tampering(_C.ROOT_UNREADABLE, "a block cannot be read", _unreadable, real=True),
    Tampering(
        _C.LOCKDOWN_LOWERED,
        "lockdown is off",
        _kernel("sys/kernel/security/lockdown", "[none] integrity", "none [integrity]"),
    ),
    Tampering(_C.KERNEL_TAINTED, "an unsigned module was loaded", _kernel("proc/sys/kernel/tainted", "8192", "0")),
    Tampering(_C.KERNEL_WARNED, "a warning", _kernel("proc/sys/kernel/tainted", "512", "0")),
    Tampering(
        _C.MODULE_FOREIGN,
        "a module that the image has not",
        _kernel("proc/modules", "erofs 1 2 - Live 0x0\nrootkit 1 0 - Live 0x0", "erofs 1 2 - Live 0x0"),
    ),
    Tampering(_C.KEXEC_LOADED, "another kernel", _kernel("sys/kernel/kexec_loaded", "1", "0")),
    Tampering(_C.KEXEC_LOADED, "a crash kernel", _kernel("sys/kernel/kexec_crash_loaded", "1", "0")),
    Tampering(_C.SYSCTL_CHANGED, "the kernel log is open", _kernel("proc/sys/kernel/dmesg_restrict", "0", "1")),
    Tampering(_C.IPE_OFF, "the policy only watches", _kernel("sys/kernel/security/ipe/enforce", "0", "1")),
    Tampering(
        _C.IPE_POLICY_CHANGED,
        "the policy is not in force",
        _kernel("sys/kernel/security/ipe/policies/appliance/active", "0", "1"),
    ),
    Tampering(
        _C.IPE_POLICY_CHANGED,
        "another policy",
        _laid_out(
            lambda tree: KernelProbe(tree.places),
            lambda tree: tree.put("sys/kernel/security/ipe/policies/mine/active", 1),
            lambda tree: tree.take("sys/kernel/security/ipe/policies/mine"),
        ),
    ),
    Tampering(_C.SECURE_BOOT_OFF, "it is off", _firmware("SecureBoot", b"\0", b"\1")),
    Tampering(_C.SECURE_BOOT_OFF, "setup mode", _firmware("SetupMode", b"\1", b"\0")),
    Tampering(_C.SECURE_BOOT_KEYS_CHANGED, "another db", _firmware("db", b"mine", b"db", IMAGES)),
    Tampering(_C.SECURE_BOOT_KEYS_CHANGED, "no PK", _firmware("PK", b"", b"PK")),
    Tampering(
        _C.ROOT_WRITABLE,
        "/ (a box's table)",
        _mounted("/ / ro,relatime - erofs /dev/mapper/root ro,", "/ / rw - erofs /dev/mapper/root rw,"),
    ),
    Tampering(
        _C.MOUNT_LOOSENED,
        "/var runs programs (a box's table)",
        _mounted("/var rw,nosuid,nodev,noexec", "/var rw,nosuid,nodev"),
    ),
    Tampering(
        _C.MOUNT_LOOSENED,
        "a stick that is read can be written (a box's table)",
        _added("50 24 8:17 / /run/bsfg/stick rw,nosuid,nodev,noexec - vfat /dev/sdb1 rw"),
    ),
    Tampering(
        _C.MOUNT_LOOSENED,
        "a stick for evidence runs programs (a box's table)",
        _added("50 24 8:17 / /run/bsfg/carry rw,nosuid,nodev - vfat /dev/sdb1 rw"),
    ),
    Tampering(_C.MOUNT_FOREIGN, "a stick (a box's table)", _added("50 24 8:17 / /run/stick rw - vfat /dev/sdb1 rw")),
    Tampering(
        _C.MOUNT_FOREIGN, "over the status (a box's table)", _added("50 35 0:99 / /run/bsfg/status rw - tmpfs x rw")
    ),
    Tampering(_C.MOUNT_OVER_SYSTEM, "over /usr/lib (a box's table)", _added("50 24 0:99 / /usr/lib rw - tmpfs x rw")),
    Tampering(
        _C.MOUNT_OVER_SYSTEM,
        "another /etc/machine-id (a box's table)",
        _mounted("0:32 /machine-id /etc/machine-id", "0:32 /mine /etc/machine-id"),
    ),
    Tampering(
        _C.MOUNT_FOREIGN,
        "a file system in memory",
        _in_space(lambda _: [[*_TMPFS, "/media"]], ("umount", "/media")),
        real=True,
    ),
    Tampering(
        _C.MOUNT_FOREIGN,
        "one folder over another",
        _in_space(lambda _: [["mount", "--bind", "/var/tmp", "/media"]], ("umount", "/media")),  # noqa: S108
        real=True,
    ),
    Tampering(
        _C.MOUNT_OVER_SYSTEM,
        "an empty folder over the system's",
        _in_space(lambda _: [[*_TMPFS, "/usr/games"]], ("umount", "/usr/games")),
        real=True,
    ),
    Tampering(
        _C.MOUNT_OVER_SYSTEM,
        "one file of the system over another",
        _in_space(lambda _: [["mount", "--bind", "/usr/bin/true", "/usr/bin/false"]], ("umount", "/usr/bin/false")),
        real=True,
    ),
    Tampering(
        _C.ROOT_WRITABLE,
        "/ is remounted",
        _in_space(lambda _: [["mount", "-o", "remount,bind,rw", "/"]], ("mount", "-o", "remount,bind,ro", "/")),
        real=True,
    ),
    Tampering(
        _C.MOUNT_LOOSENED,
        "programs run in /var",
        _in_space(
            lambda _: [["mount", "-o", "remount,nosuid,nodev,exec", "/var/tmp"]],  # noqa: S108
            ("mount", "-o", "remount,nosuid,nodev,noexec", "/var/tmp"),  # noqa: S108
        ),
        real=True,
    ),
    Tampering(_C.MOUNT_OVER_SYSTEM, "over the system of one service alone", _for_one_service, real=True),
    Tampering(
        _C.UNIT_FOREIGN, "a unit", _file(lambda at: at.root / "run/systemd/system/mine.service", "[Service]"), real=True
    ),
    Tampering(
        _C.UNIT_FOREIGN,
        "a drop-in that systemctl made",
        _file(lambda at: at.root / "run/systemd/system.control/bsfg-agent.service.d/50.conf", "[Service]"),
        real=True,
    ),
    Tampering(
        _C.UNIT_FOREIGN,
        "a unit among the generated ones",
        _file(lambda at: at.root / "run/systemd/generator/mine.service", "[Service]"),
        real=True,
    ),
    Tampering(
        _C.UNIT_FOREIGN,
        "a generated unit was changed",
        _file(lambda at: at.root / "run/systemd/generator/var.mount", "Options=exec"),
        real=True,
    ),
    Tampering(
        _C.UNIT_FOREIGN, "a rule of udev", _file(lambda at: at.root / "run/udev/rules.d/1.rules", "RUN+="), real=True
    ),
    Tampering(_C.CONFIGURATION_CHANGED, "the agent's", _file(lambda at: at.node_config, "# more\n"), real=True),
    Tampering(_C.CONFIGURATION_CHANGED, "release operators", _file(lambda at: at.operators, "# more\n"), real=True),
    Tampering(_C.CONFIGURATION_CHANGED, "the firewall's sets", _file(lambda at: at.sets, "# more\n"), real=True),
    Tampering(
        _C.CONFIGURATION_CHANGED,
        "one more network",
        _file(lambda at: at.network / "10-mine.network", "[Network]\n"),
        real=True,
    ),
    Tampering(_C.SITE_UNSIGNED, "another signer's document", _another_signer, real=True),
    Tampering(_C.SITE_UNSIGNED, "a changed document", _file(lambda at: at.applied_site, "\n"), real=True),
    Tampering(_C.SITE_UNSIGNED, "a changed document in /var", _file(lambda at: at.site_document, "\n"), real=True),
    Tampering(_C.EXECUTABLE_FOREIGN, "from memory", _program_of_memory, real=True),
    Tampering(_C.EXECUTABLE_FOREIGN, "from a tmpfs", _program_of_tmpfs, real=True),
    Tampering(_C.EXECUTABLE_FOREIGN, "a library from a tmpfs", _library_of_tmpfs, real=True),
    Tampering(_C.PROCESS_TRACED, "by another process", _traced, real=True),
    Tampering(_C.PROCESS_UNEXPECTED, "not of this unit", _unexpected, real=True),
    Tampering(_C.PROCESS_PRIVILEGED, "root with all rights", _privileged, real=True),
    Tampering(_C.USB_INSERTED, "a stick", _plugged_in),
    Tampering(_C.CHASSIS_OPENED, "the switch", _opened("sys/class/hwmon/hwmon0/intrusion0_alarm")),
    Tampering(_C.TERMINAL_OPENED, "a process at a terminal", _at_a_terminal, real=True),
    Tampering(_C.DISK_FAILING, "errors of the file system", _disk("sys/fs/ext4/dm-1/errors_count", "2", "0")),
    Tampering(_C.DISK_FAILING, "failed requests", _disk("sys/block/sda/device/ioerr_cnt", "0x5", "0x3")),
    Tampering(_C.DISK_FAILING, "a worn eMMC", _disk("sys/block/mmcblk0/device/life_time", "0x0a 0x01", "0x01 0x01")),
    Tampering(_C.DISK_FULL, "a full file system", _full, real=True),
)
"""All of them; a code may have several."""
