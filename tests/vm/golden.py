# SPDX-License-Identifier: Apache-2.0
"""The golden state: a box after its first boot and enrolment, switched off cleanly, and its hub.

It is made once for each image and kept in ``build/vm/golden``; every test works on copies. Making it *is* the first
boot, so what was observed on the way is kept too, for ``test_first_boot``.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.vm.box import Box
from tools.vm.hub import BenchHub
from tools.vm.images import WORK, Image, build_keys
from tools.vm.journey import beside

FORM: Final = 3
"""Raised when golden states of before are of no use any more."""
KEPT: Final = 2
"""How many golden states stay; each has a disk of some hundred MB."""
REPORT: Final = "report.json"
STATE: Final = "state.tar.xz.base64"
"""What the box's services keep in ``/var``, without facts, as somebody may have it who was root there once."""
STATE_OF_A_BOX: Final = """
import io, sys, tarfile, base64
out = io.BytesIO()
with tarfile.open(fileobj=out, mode="w:xz") as tar:
    tar.add("/var/lib/bsfg", "lib/bsfg", filter=lambda member: None if "/facts/" in member.name else member)
sys.stdout.write(base64.b64encode(out.getvalue()).decode())
"""
CONTROL: Final = "control.json"
CONTROL_S: Final = 2 * 3600.0
"""How long a control holds: a commit's tests are run in several sessions, one after another."""
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PORTS_TRIED: Final = (*range(1, 1025), 4222, 4223, 6222, 7422, 8080, 8222, 8443)
"""What a scanner on the plant's network looks for; the two documented ports are among them."""


@dataclass(frozen=True, slots=True)
class Golden:
    """A golden state. :param folder: where it is; never changed once it is made."""

    folder: Path

    @property
    def box(self) -> Box:
        """The box; copy it."""
        return Box(self.folder / "box")

    @property
    def vendor(self) -> Path:
        """The simulated vendor of its TPM."""
        return self.folder / "vendor"

    @property
    def report(self) -> dict[str, Any]:
        """What was observed at the first boot."""
        found: dict[str, Any] = json.loads((self.folder / REPORT).read_text("utf-8"))
        return found

    @property
    def state(self) -> str:
        """What the box's services keep in ``/var``: a tar archive in base64."""
        return (self.folder / STATE).read_text("ascii")

    @property
    def controlled(self) -> bool:
        """Whether an unmodified copy has booted and spoken lately, on this machine since it was started."""
        try:
            noted = json.loads((self.folder / CONTROL).read_text("utf-8"))
        except FileNotFoundError:
            return False
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - noted["boottime_s"]
        return bool(noted["boot"] == BOOT_ID.read_text("ascii").strip()) and 0 <= age_s < CONTROL_S

    def note_control(self, speaking_s: float) -> None:
        """An unmodified copy has booted, and spoke with its hub after so many seconds."""
        values = {
            "boot": BOOT_ID.read_text("ascii").strip(),
            "boottime_s": time.clock_gettime(time.CLOCK_BOOTTIME),
            "speaking_s": speaking_s,
        }
        (self.folder / CONTROL).write_text(json.dumps(values), "utf-8")

    def copy_hub(self, folder: Path) -> BenchHub:
        """A copy of its hub."""
        shutil.copytree(self.folder / "hub", folder, symlinks=True)
        return BenchHub.load(folder)


def ensure_golden(image: Image, work: Path = WORK) -> Golden:
    """The golden state of an image; made if it is not there, which takes two boots' time. :raises VmError: it fails."""
    folder = work / "golden"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "lock"):
        golden = Golden(folder / _key(image))
        if not (golden.folder / REPORT).exists():
            shutil.rmtree(golden.folder, ignore_errors=True)
            golden.folder.mkdir()
            _make(golden, image)
        (golden.folder / REPORT).touch()
        _forget_old(folder, golden.folder)
    return golden


def _key(image: Image) -> str:
    certificate = build_keys().secure_boot.db_certificate.read_bytes()
    return hashlib.sha256(b"%d\0%s\0%s" % (FORM, image.digest().encode(), certificate)).hexdigest()[:20]


def _make(golden: Golden, image: Image) -> None:
    box = Box.new(golden.folder / "box", image, golden.vendor)
    hub = BenchHub.make(golden.folder / "hub", box.vendor_cas.read_bytes())
    hub.flash(box)
    with hub.running():
        hub.publish(image.uki, image.version)
        with beside(box, hub, "first", capture=golden.folder / "first.pcap") as journey:
            journey.to_ready()
            sent, came = journey.cross("first")
            since = journey.machine.serial.position
            ports = journey.application.connects(PORTS_TRIED)
            page = journey.page(since)
            state = journey.machine.agent.python(STATE_OF_A_BOX)
            journey.machine.power_off()
    report = {
        "seen": journey.seen,
        "times": journey.times,
        "documents": journey.documents,
        "sent": sorted(sent),
        "came": sorted(came),
        "page": page,
        "serial": journey.machine.serial.text,
        "open": sorted(port for port, what in ports.items() if what == "open"),
        "refused": sorted(port for port, what in ports.items() if what == "refused"),
    }
    (golden.folder / STATE).write_text(state, "ascii")
    (golden.folder / REPORT).write_text(json.dumps(report, indent=1), "utf-8")


def _forget_old(folder: Path, current: Path) -> None:
    """Remove what is neither the newest nor half made by somebody else."""
    made = [path for path in folder.iterdir() if (path / REPORT).exists() and path != current]
    for path in sorted(made, key=lambda path: (path / REPORT).stat().st_mtime, reverse=True)[KEPT - 1 :]:
        shutil.rmtree(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
