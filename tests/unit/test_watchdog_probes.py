# SPDX-License-Identifier: Apache-2.0
"""What the probes take for right is what the image is made of, and what happens on a healthy box is no suspicion."""

from __future__ import annotations

import itertools
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.box.applying import Applying
from appliance.box.layout import BoxLayout, User
from appliance.box.rendering import Rendered
from appliance.box.site import run as run_site
from appliance.site.store import Outcome, SiteStore
from appliance.watchdog.probes.configuration import ConfigurationProbe
from appliance.watchdog.probes.executables import ExecutablesProbe, unit_of
from appliance.watchdog.probes.firmware import FirmwareProbe
from appliance.watchdog.probes.hardware import HardwareProbe
from appliance.watchdog.probes.kernel import IPE_POLICY, ROOT_ONLY, KernelProbe, settings_of
from appliance.watchdog.probes.mount_table import BOX
from appliance.watchdog.probes.mountinfo import parse as mounts_of
from appliance.watchdog.probes.places import Places
from appliance.watchdog.probes.scrub import EVERY_S, FIRST_AFTER_S
from appliance.watchdog.probes.uevents import Uevent
from appliance.watchdog.probes.units import ALL, CAPABILITIES, UnitFiles, parse, program
from appliance.watchdog.probes.verity import VerityProbe
from appliance.watchdog.sensor.listening import ReadingSocket
from appliance.watchdog.suspicions import Code, ProbeName
from tests import sites
from tests.laidout import LaidOut, SaidByKernel
from tests.processes import running
from tools.image import hardening, sandbox
from tools.image.hardening.data import Area, controls
from tools.image.hardening.sandbox import OURS

IMAGE = Path(__file__).resolve().parent.parent.parent / "image/mkosi.extra"
UNITS = Path("usr/lib/systemd/system")
TRACE = 1 << CAPABILITIES.index("SYS_PTRACE")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image's own files, with those of the hardening."""
    made = tmp_path_factory.mktemp("image")
    shutil.copytree(IMAGE / "usr", made / "usr")
    hardening.render(made)
    return made


@pytest.fixture
def tree(tmp_path: Path) -> LaidOut:
    """A box, all well."""
    return LaidOut(tmp_path / "box")


# -- what is right is what the image says ------------------------------------------------------------------------------


def test_the_table_of_mounts_has_what_the_image_mounts(image: Path) -> None:
    """Each line of fstab and each mount unit, with flags that it really has."""
    wanted = [line.split()[1:4] for line in (IMAGE / "etc/fstab").read_text().splitlines() if not line.startswith("#")]
    for path in (image / UNITS).glob("*.mount"):
        values = dict(line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
        wanted.append([values["Where"], values["Type"], values["Options"]])
    assert len(wanted) >= 4
    for point, kind, options in wanted:
        fitting = [each for each in BOX if (each.point, each.kind) == (point, kind)]
        assert [each for each in fitting if each.flags <= set(options.split(","))], point


def test_the_settings_are_those_of_the_image(image: Path) -> None:
    """One rule, read from the file that the kernel gets; and what is named as root's alone is among them."""
    settings = settings_of(image / "usr/lib/sysctl.d/60-bsfg.conf")
    assert len(settings) == len(controls(Area.SYSCTL))
    assert settings["kernel.yama.ptrace_scope"] == "3"
    assert settings["net.ipv4.ip_local_port_range"] == "32768 60999"
    assert set(settings) >= ROOT_ONLY


def test_the_execution_policy_has_the_name_of_the_image_s() -> None:
    """By which the kernel shows it."""
    assert sandbox.IPE_POLICY.startswith(f"policy_name={IPE_POLICY} ")


@pytest.mark.parametrize("name", OURS)
def test_units_are_read_as_systemd_reads_them(image: Path, name: str) -> None:
    """What they start is a whole path, and rights are those that the sandbox leaves."""
    unit = UnitFiles(image / UNITS).find(name.replace("@.", "@tty1."))
    assert unit is not None
    assert unit.commands
    assert all(command[0].startswith("/") for command in unit.commands)
    assert unit.rights != ALL
    assert unit.user in {"", *(user.login for user in User)}


def test_the_sensor_itself_may_look_and_nothing_else(image: Path) -> None:
    """By its own unit."""
    unit = UnitFiles(image / UNITS).find("bsfg-sensor.service")
    assert unit is not None
    assert (unit.rights, unit.user) == (TRACE, "bsfg-sensor")
    assert UnitFiles(image / UNITS).find("mine.service") is None


def test_capabilities_of_unit_files() -> None:
    """systemd.exec(5): added, taken away, reset; a user without ambient ones has none, ``+`` has all."""
    assert parse("[Service]\nExecStart=/usr/bin/a b\n").rights == ALL
    assert parse("CapabilityBoundingSet=~CAP_SYS_PTRACE").rights == ALL & ~TRACE
    assert parse(
        "CapabilityBoundingSet=\nCapabilityBoundingSet=CAP_SYS_PTRACE\nCapabilityBoundingSet=CAP_CHOWN"
    ).rights == (TRACE | 1)
    assert parse("CapabilityBoundingSet=CAP_SYS_PTRACE\nUser=somebody").rights == 0
    assert parse("AmbientCapabilities=CAP_SYS_PTRACE\nUser=somebody").rights == TRACE
    assert parse("CapabilityBoundingSet=\nExecStartPre=+/usr/bin/true").rights == ALL
    unit = parse("ExecStart=/usr/bin/a\nExecStart=\nExecStart=-!/usr/bin/b \\\n  -m 'c d'\nExecPaths=/usr\n")
    assert unit.commands == (("/usr/bin/b", "-m", "c d"),)


def test_programs_are_found_where_systemd_finds_them(tmp_path: Path) -> None:
    """A name alone, an old path, a whole one."""
    (tmp_path / "sbin").mkdir()
    (tmp_path / "sbin/nft").touch()
    assert program("nft", tmp_path) == tmp_path / "sbin/nft"
    assert program("/sbin/modprobe", tmp_path) == tmp_path / "sbin/modprobe"
    assert program("/usr/lib/x/y", tmp_path) == tmp_path / "lib/x/y"


def test_units_of_processes() -> None:
    """With and without groups below the unit's own."""
    assert unit_of("0::/system.slice/systemd-udevd.service/udev\n") == "systemd-udevd.service"
    assert unit_of("1:name=systemd:/x\n0::/system.slice/system-a.slice/bsfg-console@tty1.service") == (
        "bsfg-console@tty1.service"
    )
    assert unit_of("0::/init.scope") == "init.scope"
    assert unit_of("0::/") == ""


def test_the_whole_image_is_read_often_enough() -> None:
    """At least each six hours, and some minutes after the start."""
    assert EVERY_S < 6 * 3600
    assert 60 <= FIRST_AFTER_S <= 600


# -- what happens on a healthy box -------------------------------------------------------------------------------------


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[tuple[BoxLayout, ConfigurationProbe, list[float]]]:
    """A box with a site configuration; its probe; its clock, two seconds at each look."""
    at, now = BoxLayout(tmp_path / "configured"), [0.0]
    at.candidate.parent.mkdir(parents=True)
    at.candidate.write_bytes(sites.signed(1, name="two-nics"))
    run_site(at, Applying(at))
    at.sensor_run.mkdir(parents=True)

    def clock() -> float:
        now[0] += 2.0
        return now[0]

    probe = ConfigurationProbe(Places.below(at.root), at.sensor_run, Rendered(at), clock=clock)
    yield at, probe, now
    probe.close()


def _quiet(probe: ConfigurationProbe, looks: int = 5) -> bool:
    readings = [probe.look() for _ in range(looks)]
    return all((each.seen, each.blind) == ((), "") for each in readings)


def test_a_document_that_counts_from_the_next_start_on_is_no_change(
    configured: tuple[BoxLayout, ConfigurationProbe, list[float]],
) -> None:
    """A stick brings it; until the box starts anew, the old one is at work. Then all is the new one's."""
    at, probe, _ = configured
    assert _quiet(probe)
    newer = sites.signed(2, name="two-nics")
    assert SiteStore(at.site).offer(newer, "stick").outcome is Outcome.CHANGED
    assert _quiet(probe)
    at.candidate.unlink()
    run_site(at, Applying(at))
    assert at.applied_site.read_bytes() == newer
    assert _quiet(probe)


def test_applying_it_again_is_no_change(configured: tuple[BoxLayout, ConfigurationProbe, list[float]]) -> None:
    """Though for a moment a file is another one's."""
    at, probe, _ = configured
    good = at.node_config.read_bytes()
    assert _quiet(probe)
    at.node_config.write_bytes(b"half")
    assert _quiet(probe, 1)
    at.node_config.write_bytes(good)
    run_site(at, Applying(at))
    assert _quiet(probe)


def test_a_box_without_a_configuration_has_none_of_it(tmp_path: Path) -> None:
    """And whoever puts one there is seen."""
    at = BoxLayout(tmp_path)
    run_site(at, Applying(at))
    at.sensor_run.mkdir(parents=True)
    now = iter(range(0, 100, 2))
    probe = ConfigurationProbe(Places.below(at.root), at.sensor_run, Rendered(at), clock=lambda: float(next(now)))
    assert _quiet(probe)
    at.node_config.write_text("[node]\n")
    probe.look()
    probe.look()
    assert [each.code for each in probe.look().seen] == [Code.CONFIGURATION_CHANGED]


def test_reloading_systemd_is_no_change(configured: tuple[BoxLayout, ConfigurationProbe, list[float]]) -> None:
    """Generated units go and come, kmod's list of boot is there; a sensor started again knows what was first."""
    at, probe, _ = configured
    run = at.root / "run"
    for name, text in (
        ("systemd/generator/var.mount", "[Mount]\nWhat=/dev/mapper/var\n"),
        (
            "systemd/generator/systemd-veritysetup@root.service",
            "ExecStart=/usr/lib/systemd/systemd-veritysetup attach\n",
        ),
        ("systemd/generator/dev-mapper-var.device.d/50-device-timeout.conf", "[Unit]\n"),
        ("tmpfiles.d/static-nodes.conf", "c! /dev/fuse\n"),
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(text)
    (run / "systemd/generator/local-fs.target.requires").mkdir()
    (run / "systemd/generator/local-fs.target.requires/var.mount").symlink_to("../var.mount")
    assert _quiet(probe)
    (run / "systemd/generator/var.mount").rename(run / "kept")
    assert _quiet(probe)
    (run / "kept").rename(run / "systemd/generator/var.mount")
    assert _quiet(probe)
    again = ConfigurationProbe(Places.below(at.root), at.sensor_run, Rendered(at), clock=itertools.count().__next__)
    assert _quiet(again)
    (run / "systemd/generator/var.mount").write_text("[Mount]\nWhat=/dev/sda\n")
    assert _quiet(again, 1)
    assert [each.code for each in again.look().seen] == [Code.UNIT_FOREIGN]


def test_what_a_generator_never_makes_is_foreign_from_the_start(tmp_path: Path) -> None:
    """Also when it was there before the sensor: a unit with a program of its own."""
    at = BoxLayout(tmp_path)
    run_site(at, Applying(at))
    at.sensor_run.mkdir(parents=True)
    unit = tmp_path / "run/systemd/generator/systemd-veritysetup@root.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=-/var/tmp/mine\n")
    probe = ConfigurationProbe(Places.below(at.root), at.sensor_run, Rendered(at), clock=itertools.count().__next__)
    assert _quiet(probe, 1)
    assert [each.code for each in probe.look().seen] == [Code.UNIT_FOREIGN]


def test_pipes_and_links_hold_nobody_up(configured: tuple[BoxLayout, ConfigurationProbe, list[float]]) -> None:
    """A pipe is read by nobody, a socket by nobody, and a link is no file, wherever it leads."""
    at, probe, _ = configured
    units = at.root / "run/systemd/system"
    units.mkdir(parents=True)
    os.mkfifo(units / "pipe.service")
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(units / "s"))
    same = at.node_config.read_bytes()
    at.node_config.rename(at.root / "elsewhere")
    at.node_config.symlink_to(at.root / "elsewhere")
    assert same == at.node_config.read_bytes()
    probe.look()
    found = {each.code: each.detail for each in probe.look().seen}
    assert found == {
        Code.UNIT_FOREIGN: "systemd/system/pipe.service, systemd/system/s",
        Code.CONFIGURATION_CHANGED: "node.toml differs",
    }


def test_processes_of_a_healthy_box(tree: LaidOut) -> None:
    """Services, their children, a process that is just being started, the kernel's own threads; and what is wrong."""
    root = tree.root
    device = os.stat(root).st_dev
    tree.mounts(f"1 1 {os.major(device)}:{os.minor(device)} / / ro - erofs /dev/mapper/root ro\n")
    for name in ("lib/systemd/systemd", "bin/python3", "bin/udevadm", "bin/kmod", "bin/systemd-creds", "bin/cat"):
        tree.put(f"usr/{name}", name.encode())
    (root / "usr/lib/systemd/systemd-udevd").symlink_to(root / "usr/bin/udevadm")
    start = "/usr/bin/python3 -I -B -m appliance"
    ours = f"[Service]\nUser=bsfg-agent\nCapabilityBoundingSet=\nExecStart={start}.agent --config x\n"
    tree.put("usr/lib/systemd/system/bsfg-agent.service", ours)
    tree.put(
        "usr/lib/systemd/system/bsfg-local.service",
        "[Service]\nExecStart=/usr/bin/python3 -I -B -m appliance.box.local",
    )
    tree.put("usr/lib/systemd/system/systemd-udevd.service", "[Service]\nExecStart=/usr/lib/systemd/systemd-udevd")
    tree.put("etc/passwd", "root:x:0:0::/:\nbsfg-agent:x:954:954::/:\n")
    python, agent = root / "usr/bin/python3", ("python", "-I", "-B", "-m", "appliance.agent", "--config", "x")
    tree.process(1, root / "usr/lib/systemd/systemd", "init.scope", CapPrm="1ff", CapEff="1ff")
    tree.process(10, python, "bsfg-agent.service", arguments=agent, Uid="954\t954\t954\t954")
    tree.process(11, root / "usr/bin/udevadm", "systemd-udevd.service", CapPrm="1ff")
    tree.process(12, root / "usr/bin/kmod", "systemd-udevd.service", CapPrm="1ff")
    tree.process(13, root / "usr/bin/systemd-creds", "bsfg-local.service")
    tree.process(14, root / "usr/lib/systemd/systemd", "bsfg-agent.service", CapPrm="1ff")
    tree.process(15, root / "usr/bin/gone", "bsfg-agent.service")
    tree.process(16, python, "", Kthread="1")
    tree.process(17, root / "usr/bin/kmod", "")
    probe = ExecutablesProbe(tree.places)
    reading = probe.look()
    assert (reading.seen, reading.blind, reading.facts["processes"]) == ((), "", "7")
    for wrong, code in (
        ({"arguments": ("python", "-c", "evil"), "Uid": "954\t954\t954\t954"}, Code.PROCESS_UNEXPECTED),
        ({"arguments": agent, "Uid": "0\t0\t0\t0"}, Code.PROCESS_PRIVILEGED),
        ({"arguments": agent, "Uid": "954\t954\t954\t954", "CapPrm": "80000"}, Code.PROCESS_PRIVILEGED),
        ({"arguments": agent, "Uid": "954\t954\t954\t954", "TracerPid": 9}, Code.PROCESS_TRACED),
    ):
        tree.process(10, python, "bsfg-agent.service", **wrong)
        assert [each.code for each in probe.look().seen] == [code]
    tree.process(10, python, "bsfg-agent.service", arguments=agent, Uid="954\t954\t954\t954")
    tree.process(20, root / "usr/bin/cat", "qemu-guest-agent.service")
    tree.put("usr/lib/bsfg/image.json", '{"profile": "cloud"}')
    assert [each.code for each in probe.look().seen] == [Code.PROCESS_UNEXPECTED]
    tree.put("usr/lib/bsfg/image.json", '{"profile": "test"}')
    assert ExecutablesProbe(tree.places).look().seen == ()


def test_what_others_ask_the_kernel_to_repeat_is_no_event(tree: LaidOut) -> None:
    """A trigger of udev at boot; another device's blocks; a stick that was there at the start."""
    kernel = SaidByKernel()
    verity = VerityProbe(tree.places, lambda: kernel)
    block = {"DM_VERITY_ERR_BLOCK_NR": "0,1"}
    kernel.say("change", "/devices/virtual/block/dm-0", {**block, "SYNTH_UUID": "0"})
    kernel.say("change", "/devices/virtual/block/dm-1", block)
    kernel.say("add", "/devices/virtual/block/dm-0", {})
    assert verity.look().seen == ()
    verity.close()
    kernel = SaidByKernel()
    tree.put("sys/bus/usb/devices/1-1/idVendor", "0781")
    hardware = HardwareProbe(tree.places, lambda: kernel)
    kernel.say("add", "/devices/usb1/1-1", {"DEVTYPE": "usb_device", "SYNTH_UUID": "0"})
    assert hardware.look().seen == ()
    tree.put("sys/bus/usb/devices/1-2/idVendor", "0951")
    assert "1-2" in hardware.look().seen[0].detail
    hardware.close()
    assert Uevent.parse(b"libudev\0\xfe\xed") is None


def test_a_sensor_that_starts_again_does_not_forget_the_keys(tree: LaidOut) -> None:
    """Of Secure Boot, as they were at the first look of this boot."""
    assert FirmwareProbe(tree.places, tree.kept).look().seen == ()
    tree.variable("KEK", b"mine")
    assert [each.code for each in FirmwareProbe(tree.places, tree.kept).look().seen] == [Code.SECURE_BOOT_KEYS_CHANGED]
    tree.variable("dbx", b"revoked", "d719b2cb-3d3a-4596-a3bc-dad00e67656f")
    tree.variable("KEK", b"KEK")
    assert FirmwareProbe(tree.places, tree.kept).look().seen == ()


def test_what_cannot_be_read_is_blind_and_not_good(tree: LaidOut) -> None:
    """One part; the others are looked at all the same."""
    tree.take("sys/kernel/security/lockdown")
    tree.put("sys/kernel/kexec_loaded", "1")
    reading = KernelProbe(tree.places).look()
    assert "lockdown" in reading.blind
    assert [each.code for each in reading.seen] == [Code.KEXEC_LOADED]
    tree.take("sys/firmware")
    assert FirmwareProbe(tree.places, tree.kept).look().blind
    tree.take("proc/1/mountinfo")
    assert VerityProbe(tree.places, SaidByKernel).look().blind


def test_a_device_that_cannot_be_read_is_said_at_once(tree: LaidOut) -> None:
    """Not only when the first round is due; and it is over when it can be."""
    (tree.root / "dev/dm-0").rename(tree.root / "dev/gone")
    probe = VerityProbe(tree.places, SaidByKernel)
    assert "dm-0: No such file or directory" in probe.look().blind
    (tree.root / "dev/gone").rename(tree.root / "dev/dm-0")
    assert probe.look().blind == ""
    probe.close()


def test_escapes_in_the_table_of_mounts() -> None:
    """A name with a blank is one name."""
    (mount,) = mounts_of("36 35 98:0 /a\\040b /c\\134d rw,noatime master:1 shared:2 - ext4 /dev/x rw,errors=continue")
    assert (mount.root, mount.point, mount.kind) == ("/a b", "/c\\d", "ext4")


async def test_the_sensor_of_a_box_is_one_process(tree: LaidOut) -> None:
    """As its unit starts it: all seven probes are heard, and it ends when it is told to."""
    path = tree.root / "run/bsfg/watchdog/readings.sock"
    path.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "appliance.box.sensor", "--root", str(tree.root)]
    async with ReadingSocket(path, os.geteuid()) as readings:
        with running(command, stderr=subprocess.PIPE) as process:
            heard: dict[ProbeName, str] = {}
            async for reading in readings:
                heard[reading.probe] = reading.blind
                if len(heard) == 7:
                    break
            process.terminate()
            assert process.wait(10) == 0
    assert set(heard) == {
        *(ProbeName.VERITY, ProbeName.MOUNTS, ProbeName.EXECUTABLES, ProbeName.CONFIGURATION),
        *(ProbeName.FIRMWARE, ProbeName.HARDWARE, ProbeName.DISK),
    }
    assert {probe: why for probe, why in heard.items() if why} == {}
