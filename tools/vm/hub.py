# SPDX-License-Identifier: Apache-2.0
"""The hub beside a virtual machine: on this host's loopback, which the guest reaches at 10.0.2.2 and nothing else does.

It is ``bsfg dev hub`` in a folder: a hub with its enrolment office, whose operators' keys are files in it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ProducerId, ZoneId
from appliance.dev.hub_alone import HubAlone
from appliance.dev.layout import ENTERPRISE
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.files import PUBLIC, write_atomically
from appliance.keys.local.applications import Role
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.endorsement import fingerprint_of, read_endorsement
from appliance.site.applications import new_application
from tools.image.measurements import image_number, published
from tools.vm import pace
from tools.vm.application import ADDRESS, NAME
from tools.vm.box import Box
from tools.vm.faults import AwaitedError, VmError
from tools.vm.hardware import HUB_ADDRESS, PLANT_MAC, UPLINK_MAC
from tools.vm.images import ROOT, build_keys
from tools.vm.tpm import copy_tpm, served_by_tcp

ZONE: Final = "plant-a"
HUB_ZONE: Final = "enterprise"
UPLINK: Final = f"""\
[interfaces.uplink]
mac = "{UPLINK_MAC}"

[interfaces.uplink.ipv4]
mode = "dhcp"
"""
PLANT: Final = f"""\
[interfaces.plant]
mac = "{PLANT_MAC}"

[interfaces.plant.ipv4]
mode = "static"
addresses = ["{ADDRESS}/24"]
"""
LISTENER: Final = f"""\
[plant]
address = "{ADDRESS}"
"""
CATEGORY_BYTES: Final = 64 * 1024**2
"""Of each category on the box: the disks of these boxes have 4 GB."""
_TABLE: Final = "table.toml"
SITE_ON_ESP: Final = "bsfg/site.toml"
VOUCHER_ON_ESP: Final = "bsfg/voucher.json"
_CLI_S: Final = 120.0
_STOP_S: Final = 120.0


def fingerprint(box: Box) -> str:
    """The fingerprint of a box's TPM, which vouchers name; read from a copy, so that the TPM stays untouched."""
    with tempfile.TemporaryDirectory(prefix="bsfg-bench-") as folder:
        state = copy_tpm(box.tpm, Path(folder) / "tpm")
        return _fingerprint(state, Path(folder) / "log")


def _fingerprint(state: Path, log: Path) -> str:
    with served_by_tcp(state, log) as tcti, Device(tcti) as device:
        device.ensure_srk()
        return fingerprint_of(read_endorsement(device).public)


@dataclass(frozen=True, slots=True)
class BenchHub:
    """A hub in a folder. :param alone: the hub itself."""

    alone: HubAlone

    @classmethod
    def make(cls, folder: Path, vendor_cas: bytes) -> BenchHub:
        """A new hub that lets in boxes of this checkout's images, with TPMs of this vendor. It does not run yet."""
        try:
            hub = HubAlone.make(folder, [ZoneId(ZONE)])
            hub.trust_image_key(build_keys().public("pcr-system").read_bytes())
            hub.trust_vendor(vendor_cas, "bench")
            _, secrets, table = new_application(NAME, Role.SERVICE, (), int(time.time()))
        except BsfgError as error:
            raise VmError(f"the hub cannot be made: {error}") from error
        made = cls(hub)
        secrets.write(made.secrets, ProducerId(NAME))
        (made.secrets / _TABLE).write_text(table, "utf-8")
        return made

    @classmethod
    def load(cls, folder: Path) -> BenchHub:
        """A hub that was made, perhaps elsewhere and copied."""
        return cls(HubAlone.load(folder))

    def publish(self, uki: Path, version: str, *, only: bool = False) -> None:
        """Let the hub expect this kernel image in its boxes' measurements, beside those published before.

        The hub must have run once: its own box is simulated and another builder's, and would not be let in any more.

        :param only: nothing older may run any more.
        """
        path = self.alone.office.measurements
        previous = Measurements.parse(path.read_bytes()) if path.exists() else None
        key, minimum = build_keys().private("pcr-system"), image_number(version) if only else 0
        write_atomically(path, published(uki, version, key, previous=previous, minimum=minimum), PUBLIC)

    @property
    def secrets(self) -> Path:
        """What the plant's application was given at the site."""
        return self.folder / "application"

    @property
    def folder(self) -> Path:
        """Where it is."""
        return self.alone.environment.layout.root

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it. One hub of a folder and its copies at a time: they have the same ports.

        It ends with the block, and with this program (:mod:`tools.vm.reaper`).
        """
        command = [sys.executable, "-m", "tools.vm.reaper", str(self.folder)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=ROOT, start_new_session=True) as reaper:
            try:
                self.alone.start()
                yield
            except BsfgError as error:
                raise VmError(f"the hub: {error}") from error
            finally:
                if reaper.stdin is not None:
                    reaper.stdin.close()
                reaper.wait(_STOP_S)

    def site(self, *, plant: bool = True, version: int = 1, extra: str = "") -> bytes:
        """A signed site configuration. :param plant: with the plant's interface and listeners on it."""
        interfaces = UPLINK + (PLANT if plant else "")
        table = (self.secrets / _TABLE).read_text("utf-8")
        tables = f"{extra}\n{LISTENER}\n{table}" if plant else extra
        return self.alone.site(
            ZONE, HUB_ADDRESS, interfaces=interfaces, version=version, extra=tables, category_bytes=CATEGORY_BYTES
        )

    def flash(self, box: Box, *, plant: bool = True, voucher: bool = True) -> None:
        """Put the site configuration on the box's ESP, and a voucher for its TPM, as ``bsfg image flash`` does."""
        esp = box.disk.esp
        esp.write(SITE_ON_ESP, self.site(plant=plant))
        if voucher:
            esp.write(VOUCHER_ON_ESP, self.alone.voucher(ZONE, fingerprint(box)))

    # -- facts ---------------------------------------------------------------------------------------------------------

    def append(self, rows: Sequence[dict[str, object]], category: str = "operational", to: str = ZONE) -> None:
        """Append facts of the enterprise, addressed to the plant. :raises VmError: one was not stored."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        said = self._bsfg(
            *("fact", "append", "--zone", HUB_ZONE, "--category", category, "--to", to, "--output", "json"),
            *("--subject", "order:{row}", "--predicate", "order_created"),
            stdin=text,
        )
        counts = json.loads(said)
        if counts["stored"] + counts["duplicate"] != len(rows):
            raise VmError(f"the hub did not store {len(rows)} facts: {said}")

    def received(self, category: str = "") -> list[dict[str, Any]]:
        """The facts that came from the plant, in order: what the hub has durably."""
        chosen = ("--category", category) if category else ()
        said = self._bsfg("fact", "read", "--zone", HUB_ZONE, "--origin", ZONE, "--output", "jsonl", *chosen)
        return [json.loads(line) for line in said.splitlines()]

    def wait_received(self, wanted: set[str], what: str, seconds: float = 60.0) -> list[dict[str, Any]]:
        """Wait until facts with these ids came from the plant. :raises AwaitedError: some did not."""
        deadline = time.monotonic() + pace.limit(seconds)
        while True:
            found = self.received()
            missing = wanted - {fact["envelope"]["message_id"] for fact in found}
            if not missing:
                return found
            if time.monotonic() > deadline:
                raise AwaitedError(
                    f"{what}: {len(missing)} of {len(wanted)} facts did not come, such as {min(missing)}"
                )
            time.sleep(1)

    @property
    def enrolled(self) -> bool:
        """Whether a box of the plant is enrolled."""
        said = json.loads(self._bsfg("hub", "boxes", "list", "--output", "json", folder=False))
        boxes = said if isinstance(said, list) else said.get("boxes", [])
        return any(box.get("zone") == ZONE and box.get("state") == "enrolled" for box in boxes)

    @property
    def attestation(self) -> str:
        """What the hub says of the box's attestation: ``fresh``, ``stale``, ``failed``; empty: nothing yet."""
        path = self.alone.environment.layout.zone(ENTERPRISE).status_document
        try:
            peers = json.loads(path.read_bytes()).get("peers", [])
        except (OSError, ValueError):
            return ""
        return next((str(peer.get("attestation", "")) for peer in peers if peer.get("zone") == ZONE), "")

    def _bsfg(self, *command: str, stdin: str = "", folder: bool = True) -> str:
        """Run the command line against it; what it prints. :raises VmError: it failed."""
        where = ["--dir", str(self.folder)] if folder else ["--office", str(self.alone.office.path)]
        done = subprocess.run(
            [sys.executable, "-m", "appliance.cli", *command, *where],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=pace.limit(_CLI_S),
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise VmError(f"bsfg {' '.join(command)} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout
