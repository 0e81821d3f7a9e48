# SPDX-License-Identifier: Apache-2.0
"""What is measured of running machines: the test image beside its hub, and a plain Debian on the same machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.image.progress import Say, step

IDLE_S: Final = 60.0
"""How long a box is left alone before its memory is measured."""
STATUS_PAGE: Final = r"BSFG appliance +\d{4}-\d\d-\d\d"
LOGIN: Final = r"login: "
BOOTS: Final = 2
_TEST_ONLY: Final = "qemu-ga"

_MEASURE: Final = r"""
import json, os, pathlib, sys, time

def text(path):
    try:
        return pathlib.Path(path).read_text(errors="replace")
    except OSError:
        return ""

def pss(pid):
    for line in text(f"/proc/{pid}/smaps_rollup").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0

def name(pid):
    words = [word for word in text(f"/proc/{pid}/cmdline").split("\0") if word]
    if "-m" in words[:5]:
        return (words[words.index("-m"):] + ["", ""])[1]
    return os.path.basename(words[0]) if words else ""

def sockets():
    found = {}
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in text("/proc/net/" + kind).splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" or (kind.startswith("udp") and fields[2].endswith(":0000")):
                found[fields[9]] = [kind, fields[1]]
    return found

def holders(inodes):
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for item in os.scandir(f"/proc/{pid}/fd"):
                target = os.readlink(item.path)
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    inodes[target[8:-1]].append(name(pid))
        except OSError:
            continue

listening = sockets()
holders(listening)
processes = {}
for pid in filter(str.isdigit, os.listdir("/proc")):
    if int(pid) != os.getpid() and (size := pss(pid)):
        processes[pid] = [name(pid), size]
memory = {line.split(":")[0]: int(line.split()[1]) for line in text("/proc/meminfo").splitlines() if ":" in line}
count, done = int(sys.argv[1]), 0
pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
began = time.monotonic()
with open("/dev/mapper/root", "rb", buffering=0) as device:
    while done < count:
        piece = device.read(min(1 << 20, count - done))
        if not piece:
            break
        done += len(piece)
print(json.dumps({
    "processes": processes,
    "listening": list(listening.values()),
    "memory": {name: memory[name] for name in ("MemTotal", "MemAvailable")},
    "scrub_s": time.monotonic() - began,
    "scrub_bytes": done,
}))
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A box at work. :param pss: KiB by process. :param listening: (kind, address, who).

    :param times: seconds after power-on by step, of the first and of a later boot. :param memory: KiB by name.
    """

    accelerator: str
    memory_mib: int
    pss: tuple[tuple[str, int], ...]
    listening: tuple[tuple[str, str, str], ...]
    memory: Mapping[str, int]
    scrub_s: float
    scrub_bytes: int
    first: Mapping[str, float]
    later: Mapping[str, float]
    plain: Mapping[str, float]


def measured(answer: Mapping[str, Any], **more: Any) -> Running:
    """From the answer of what is run inside a box. What only the test image has is left out."""
    rows = [(str(name), int(size)) for name, size in answer["processes"].values()]
    pss = sorted(((name, size) for name, size in rows if name != _TEST_ONLY), key=lambda row: (-row[1], row[0]))
    listening = sorted({(row[0], address(row[1]), ", ".join(sorted(set(row[2:])))) for row in answer["listening"]})
    return Running(
        pss=tuple(pss),
        listening=tuple(listening),
        memory=dict(answer["memory"]),
        scrub_s=float(answer["scrub_s"]),
        scrub_bytes=int(answer["scrub_bytes"]),
        **more,
    )


def address(text: str) -> str:
    """An address of ``/proc/net/tcp``: hexadecimal words in the machine's order, and a port."""
    from ipaddress import ip_address

    packed, _, port = text.partition(":")
    raw = b"".join(bytes.fromhex(packed[at : at + 8])[::-1] for at in range(0, len(packed), 8))
    host = ip_address(raw)
    return f"{f'[{host}]' if host.version == 6 else host}:{int(port, 16)}"


def measure(folder: Path, plain: Path, covered: int, say: Say) -> Running:
    """Boot the test image twice beside a hub, and a plain Debian twice.

    :param folder: to work in. :param plain: disk image of the plain Debian. :param covered: bytes that verity covers.
    """
    from tools.vm import pace
    from tools.vm.box import Box
    from tools.vm.hub import BenchHub
    from tools.vm.images import Image
    from tools.vm.journey import beside

    shutil.rmtree(folder, ignore_errors=True)
    image = Image.find("test")
    box = Box.new(folder / "box", image, folder / "vendor")
    hub = BenchHub.make(folder / "hub", box.vendor_cas.read_bytes())
    hub.flash(box)
    beside_it = _plain_boots(folder / "plain", plain, say)
    boots: list[dict[str, float]] = []
    answer: dict[str, Any] = {}
    with hub.running():
        hub.publish(image.uki, image.version)
        for number in range(BOOTS):
            name = f"boot-{number + 1}"
            with step(say, f"{name} of the test image"), beside(box, hub, name) as journey:
                machine = journey.machine
                machine.wait(STATUS_PAGE, what="the status page", seconds=180)
                page = round(machine.age, 1)
                journey.to_ready()
                boots.append({"status page": page, **journey.times})
                if number == BOOTS - 1:
                    time.sleep(IDLE_S)
                    answer = json.loads(machine.agent.python(_MEASURE, str(covered), seconds=pace.limit(300)))
                machine.power_off()
    return measured(
        answer,
        accelerator=pace.accelerator(),
        memory_mib=1024,
        first=boots[0],
        later=boots[-1],
        plain=beside_it,
    )


def _plain_boots(folder: Path, raw: Path, say: Say) -> dict[str, float]:
    """Seconds from power-on to a login prompt, of the first and of a later boot."""
    from tools.vm import firmware
    from tools.vm.disk import Disk, copy_sparse
    from tools.vm.hardware import Drive, Hardware, UserNetwork
    from tools.vm.machine import Machine

    folder.mkdir(parents=True)
    disk = Disk(folder / "disk.raw")
    copy_sparse(raw, disk.path)
    found: dict[str, float] = {}
    for name in ("first", "later"):
        program = firmware.without_keys(folder / f"{name}.fd")
        hardware = Hardware(program, (Drive(disk.path, boot=1),), networks=(UserNetwork(),), agent=False)
        with step(say, f"{name} boot of the plain Debian"), Machine(hardware, folder, name) as machine:
            machine.wait(LOGIN, what="a login prompt", seconds=180)
            found[name] = round(machine.age, 1)
            machine.monitor.command("system_powerdown")
            machine.wait_end("powers off", seconds=90)
    return found
