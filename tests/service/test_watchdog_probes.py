# SPDX-License-Identifier: Apache-2.0
"""What the probes of the sensor rely on, of the kernel itself: its events, its settings, its table of mounts."""

from __future__ import annotations

import json
import select
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from appliance.box.layout import User
from appliance.watchdog.probes.kernel import KernelProbe
from appliance.watchdog.probes.mountinfo import parse
from appliance.watchdog.probes.mounts import MountsProbe, judge_service, table_of
from appliance.watchdog.probes.places import Places, View
from appliance.watchdog.probes.scrub import Scrub
from appliance.watchdog.probes.uevents import Uevents
from appliance.watchdog.probes.verity import VerityProbe
from appliance.watchdog.suspicions import Code, ProbeName
from tests import netns
from tests.boxspace import boxspace, loop_device
from tests.laidout import MOUNTS, LaidOut
from tests.processes import interpreter

DEVICE = Path("/sys/class/mem/null/uevent")


def _wait(events: Uevents) -> bool:
    return bool(select.select([events.fileno()], [], [], 5)[0])


def test_the_kernel_is_heard_and_nobody_else() -> None:
    """A real event by the kernel; and one that a privileged process sends to the same group, which is not believed."""
    netns.needed()
    with netns.own_thread() as elsewhere:  # a service without a network hears it too
        events = elsewhere(Uevents)
        DEVICE.write_text("change 12345678-1234-1234-1234-123456789abc A=1")
        assert _wait(events)
        found = events.read()
        assert [(each.action, each.device.rpartition("/")[2]) for each in found] == [("change", "null")]
        assert found[0].repeated
        events.close()
    events = Uevents()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15) as forger:
        forger.sendto(b"change@/devices/virtual/block/dm-0\0DM_VERITY_ERR_BLOCK_NR=0,1\0", (0, 1))
        assert _wait(events), "the forgery came through the kernel"
        assert events.read() == []
    events.close()


def test_a_flood_of_events_is_noticed() -> None:
    """What the kernel had to drop is counted, so that the scrub looks for it."""
    netns.needed()
    small = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 15)
    small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    small.bind((0, 1))
    events = Uevents(small)
    for _ in range(100):
        DEVICE.write_text("change")
    assert events.read()
    assert events.lost
    events.close()


def test_the_mount_table_says_when_it_changes() -> None:
    """Each time, at once, and it is quiet when nothing changes."""
    with boxspace() as space:
        probe = MountsProbe(space.places, table_of(space.places.mountinfo.read_text("utf-8")))
        descriptor = probe.descriptor()
        assert descriptor is not None
        probe.look()
        for number in range(20):
            assert select.select([descriptor], [], [], 0)[0] == []
            space.run("mount", "-t", "tmpfs", str(number), "/media")
            assert select.select([descriptor], [], [], 5)[0] == [descriptor]
            assert [each.code for each in probe.look().seen if each.code is not Code.ROOT_WRITABLE] == [
                Code.MOUNT_FOREIGN
            ]
            space.run("umount", "/media")
            assert select.select([descriptor], [], [], 5)[0] == [descriptor]
            probe.look()
        probe.close()


def test_a_setting_of_the_network_is_the_box_s_own(tmp_path: Path) -> None:
    """A real one, in a network namespace. The rest of the tree is laid out."""
    netns.needed()
    tree = LaidOut(tmp_path)
    tree.put("usr/lib/sysctl.d/60-bsfg.conf", "net.ipv4.ip_forward=0\nnet.ipv4.conf.all.rp_filter=0\n")
    tree.take("proc/sys")
    (tree.root / "proc/sys").symlink_to("/proc/sys")
    with netns.own_thread() as inside:
        probe = KernelProbe(tree.places)

        def seen() -> list[tuple[Code, str]]:
            reading = inside(probe.look)
            return [(each.code, each.detail) for each in reading.seen if each.code is Code.SYSCTL_CHANGED]

        def forward(value: str) -> None:
            inside(lambda: Path("/proc/sys/net/ipv4/ip_forward").write_text(value))

        forward("0")
        inside(lambda: Path("/proc/sys/net/ipv4/conf/all/rp_filter").write_text("0"))
        assert seen() == []
        forward("1")
        assert seen() == [(Code.SYSCTL_CHANGED, "net.ipv4.ip_forward is 1, not 0")]
        assert KernelProbe(tree.places).look() != inside(KernelProbe(tree.places).look), "it is of the namespace"


def test_a_service_has_mounts_of_its_own() -> None:
    """What a sandbox lays over is no tampering; what hides the image in one service alone is."""
    box = parse(MOUNTS)
    sandbox = MOUNTS + (
        "60 24 0:32 /systemd/inaccessible/dir /etc/credstore ro,nosuid,nodev,noexec - tmpfs tmpfs rw\n"
        "61 24 253:0 /usr /usr ro,nosuid - erofs /dev/mapper/root ro\n"
        "62 24 253:1 /tmp/systemd-private-1/tmp /tmp rw,nosuid,nodev - ext4 /dev/mapper/var rw\n"
        "63 25 0:77 / /dev rw,nosuid,noexec - tmpfs tmpfs rw\n"
    )
    for more, codes in (
        ("", []),
        ("64 24 0:78 / /usr/lib/bsfg rw - tmpfs x rw\n", [Code.MOUNT_OVER_SYSTEM]),
        ("64 24 253:1 /lib/evil /etc rw - ext4 /dev/mapper/var rw\n", [Code.MOUNT_OVER_SYSTEM]),
        ("64 24 0:79 / /media rw - overlay overlay rw\n", [Code.MOUNT_OVER_SYSTEM]),
        ("64 24 8:17 / /media rw - vfat /dev/sdb1 rw\n", [Code.MOUNT_FOREIGN]),
        ("64 24 253:0 / / rw - erofs /dev/mapper/root rw\n", [Code.ROOT_WRITABLE]),
    ):
        view = View(ProbeName.MOUNTS)
        judge_service(parse(sandbox + more), box, "bsfg-agent[7]", view)
        assert [each.code for each in view.reading().seen] == codes, more


def test_the_scrub_reads_a_whole_device(tmp_path: Path) -> None:
    """A real block device, past the page cache, with a size that is no multiple of its pieces."""
    backing = tmp_path / "image"
    backing.write_bytes(bytes(5 * 4096 + 1024 * 1024))
    with loop_device(backing) as device:
        scrub = Scrub(device, rate=2**40)
        scrub.round()
    assert (scrub.progress.rounds, scrub.progress.unreadable, scrub.progress.size) == (1, (), 5 * 4096 + 1024 * 1024)
    scrub.device = tmp_path / "gone"
    scrub.round()
    assert "gone" in scrub.progress.problem


def test_a_flipped_byte_below_a_real_verity_device(tmp_path: Path) -> None:
    """The kernel's own event, by the scrub. Where the kernel has no device mapper, the virtual machine tests this."""
    if shutil.which("veritysetup") is None:
        pytest.skip("no veritysetup")
    data, hashes = tmp_path / "data", tmp_path / "hashes"
    data.write_bytes(b"appliance" * 4096 * 16)
    data.write_bytes(data.read_bytes()[: 64 * 4096])
    made = subprocess.run(
        ["veritysetup", "format", data, hashes], capture_output=True, text=True, check=True, timeout=60
    )
    digest = made.stdout.partition("Root hash:")[2].split()[0]
    name = f"bsfg-test-{time.time_ns()}"
    opened = subprocess.run(
        ["veritysetup", "open", data, name, hashes, digest], capture_output=True, text=True, check=False, timeout=60
    )
    if opened.returncode != 0:
        pytest.skip(f"the kernel has no verity devices: {opened.stderr.strip()}")
    try:
        device = Path("/dev/mapper") / name
        number = device.stat().st_rdev
        tree = LaidOut(tmp_path / "box")
        major_minor = f"{number >> 8 & 0xFFF}:{number & 0xFF}"
        tree.mounts(MOUNTS.replace("253:0 / / ro", f"{major_minor} / / ro"))
        scrub = Scrub(device, first_s=3600.0, rate=2**40)
        probe = VerityProbe(Places(proc=tree.places.proc), scrub=lambda _: scrub)
        assert probe.look().seen == ()
        scrub.round()
        assert probe.look().seen == ()
        with data.open("r+b") as file:
            file.seek(9 * 4096 + 17)
            file.write(b"X")
        scrub.round()
        assert [(each.code, "block 9 " in each.detail) for each in probe.look().seen] == [(Code.VERITY_CORRUPT, True)]
        probe.close()
    finally:
        subprocess.run(["veritysetup", "close", name], check=False, timeout=60)


_LOOKS = """
import json, sys
from pathlib import Path
from appliance.watchdog.probes.executables import ExecutablesProbe
from appliance.watchdog.probes.hardware import HardwareProbe
from appliance.watchdog.probes.mounts import MountsProbe, table_of
from appliance.watchdog.probes.places import Places
places = Places(proc=Path(sys.argv[1]))
table = table_of(places.mountinfo.read_text())
probes = (ExecutablesProbe(places), MountsProbe(places, table), HardwareProbe(places))
print(json.dumps([each.look().blind for each in probes]))
"""


@pytest.mark.parametrize(("given", "blind"), [("+sys_ptrace", [False, False, False]), ("-all", [True, True, False])])
def test_the_rights_of_its_unit_are_enough_and_needed(given: str, blind: list[bool]) -> None:
    """As user 959 with this one privilege and no network, it sees processes of root and of others."""
    python, environment = interpreter()
    with boxspace() as space, space.process("setpriv", "--reuid=954", "sleep", "600", runs="sleep"):
        user = int(User.SENSOR)
        rights = [f"--bounding-set=-all,{given}", f"--inh-caps=-all,{given}", f"--ambient-caps=-all,{given}"]
        command = [
            *("nsenter", f"--target={space.holder}", "--mount", "--pid", "--", "unshare", "--net", "setpriv"),
            *(f"--reuid={user}", f"--regid={user}", "--clear-groups", "--no-new-privs", *rights, "--"),
            *(*python, "-c", _LOOKS, "/proc"),
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        assert [bool(each) for each in json.loads(done.stdout)] == blind, done.stdout
