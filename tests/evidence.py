# SPDX-License-Identifier: Apache-2.0
"""Quarantined boxes and their evidence: real ones on a software TPM, and **simulated** ones whose keys a test holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.names import ZoneId
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.port import Certified, Latched, Quote
from appliance.keys.tpm.policy import latch_word
from appliance.keys.tpm.public import Digest, p256_key
from appliance.watchdog.evidence.bundle import Bundle, Counted, JournalLine, LogHead, Seal
from appliance.watchdog.evidence.collecting import collect
from appliance.watchdog.evidence.journal import Window
from appliance.watchdog.evidence.sources import Sources
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.case import Case, Moment, open_case
from appliance.watchdog.suspicions import Code, ProbeName
from tests.boxes import SimulatedBox
from tests.keepers import PLANT, KeeperProcess, Site, running_keeper
from tests.tpm import SoftwareTpm, software_tpm

BOOT_ID = "0123456789abcdef" * 2
WALL_MS = 1_795_000_000_000


def a_case(zone: ZoneId = PLANT, code: Code = Code.SECURE_BOOT_OFF, detail: str = "SecureBoot is 0") -> Case:
    """Why a box was put into quarantine."""
    readings = [Reading(ProbeName.FIRMWARE, (Seen(code, detail),)), Reading(ProbeName.KERNEL, facts={"tainted": "0"})]
    return open_case(Moment(zone, BOOT_ID, WALL_MS, 60_000, "1.2.3"), Seen(code, detail), readings)


async def some_journal() -> Window:
    """A journal of two lines."""
    lines = (JournalLine(1, "kernel", 4, "something"), JournalLine(2, "bsfg-agent.service", 6, "the link is up"))
    return Window(lines, False, 0)


def some_sources(**changes: object) -> Sources:
    """Sources that all have something."""
    given: dict[str, object] = {
        "journal": some_journal,
        "firewall": lambda: {"inet:leased:HRD-NET-032": Counted(7, 700), "set:inet:dark": Counted(1, 0)},
        "logs": lambda: (LogHead("store:telemetry", "telemetry", "", 7, 0, "ab" * 32),),
        "image": lambda: {"image_version": "1.2.3", "roothash": "cd" * 32},
        "files": lambda: {"/var/lib/bsfg/site/site.toml": "ef" * 32},
        "readings": lambda: (Reading(ProbeName.KERNEL, facts={"tainted": "0"}),),
        "boot_id": lambda: BOOT_ID,
        "wall_ms": lambda: WALL_MS + 1000,
        "boottime_ms": lambda: 61_000,
    }
    return Sources(**{**given, **changes})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Quarantined:
    """A box in quarantine, on a real keeper and a software TPM; its box file was kept before."""

    keeper: KeeperClient
    site: Site
    box: EnrolledBox
    case: Case
    latched: Latched
    bundle: bytes
    seal: bytes
    tpm: SoftwareTpm
    process: KeeperProcess

    def reboot(self) -> None:
        """Start the machine anew: the TPM is reset, its counters stay."""
        self.process.stop()
        self.tpm.reset()
        self.process.start()

    def again(self, case: Case | None = None, sources: Sources | None = None, **place: object) -> tuple[bytes, bytes]:
        """Other evidence of this box, as it is now."""
        return trio.run(self._again, case or self.case, sources or some_sources(), place)

    async def _again(self, case: Case, sources: Sources, place: dict[str, object]) -> tuple[bytes, bytes]:
        bundle, seal = await collect(case, self.latched, self.keeper, sources, **place)  # type: ignore[arg-type]
        return bundle.render(), seal.render()


async def _quarantine(site: Site, zone: ZoneId) -> tuple[EnrolledBox, Case, Latched, Bundle, Seal]:
    keeper, case = site.client, a_case(zone)
    await site.enrol()
    described = await keeper.describe()
    birth, key = BirthPolicy.parse(described.policy), p256_key(described.ak_public)
    box = EnrolledBox(zone, birth, described.boundary_public, key)
    latched = await keeper.latch(case.digest())
    return box, case, latched, *await collect(case, latched, keeper, some_sources())


@contextmanager
def quarantined(folder: Path, zone: ZoneId = PLANT) -> Iterator[Quarantined]:
    """One that ends with the block."""
    with software_tpm(folder / "tpm") as tpm:
        site = Site(folder / "site", tpm.tcti, zone)
        with running_keeper(site) as process:
            box, case, latched, bundle, seal = trio.run(_quarantine, site, zone)
            yield Quarantined(site.client, site, box, case, latched, bundle.render(), seal.render(), tpm, process)


@dataclass
class SimulatedQuarantine:
    """**A simulation**: a keeper on keys of this process, as far as evidence asks it."""

    box: SimulatedBox = field(default_factory=SimulatedBox)
    boot_log: bytes = b""
    runtime_log: bytes = b""
    hang: bool = False

    @property
    def enrolled(self) -> EnrolledBox:
        """The box file."""
        key: ec.EllipticCurvePublicKey = self.box.key.public_key()
        return EnrolledBox(self.box.zone, self.box.birth, self.box.boundary_public, key)

    def latch(self, case: Digest) -> Latched:
        """Lock the key over a case."""
        self.box.counter += 1
        self.box.clock_ms += 5
        certificate = self.box.sign(self.box.counter_statement(case))
        self.box.extend(14, latch_word(case))
        return Latched(self.box.counter, certificate)

    async def quote(self, nonce: bytes) -> Quote:
        """See the keeper's port."""
        if self.hang:
            await trio.sleep_forever()
        self.box.clock_ms += 5
        return Quote(self.box.quote(nonce), dict(self.box.pcrs), self.boot_log, self.runtime_log)

    async def certify(self, nonce: bytes) -> Certified:
        """See the keeper's port."""
        return await self.box.certify(nonce)

    async def take(self, case: Case, sources: Sources | None = None, **options: object) -> tuple[Bundle, Seal]:
        """Lock the key, and gather the evidence."""
        latched = self.latch(case.digest())
        return await self.gather(case, latched, sources, **options)

    async def gather(
        self, case: Case, latched: Latched | None, sources: Sources | None = None, **options: object
    ) -> tuple[Bundle, Seal]:
        """The evidence alone."""
        keeper: object = self
        return await collect(case, latched, keeper, sources or some_sources(), **options)  # type: ignore[arg-type]
