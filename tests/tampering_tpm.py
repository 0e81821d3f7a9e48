# SPDX-License-Identifier: Apache-2.0
"""What can be done to a box's TPM, its logs and its keeper, for real, and what the watchdog must then say: one table.

The TPM is a software one, whose boot is *simulated*: made-up words are extended, and a *simulated* firmware's log may
lead to them. Everything else is real: keeper, keys, quotes, certificates. Benches use the table as well.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import trio
from tpm2_pytss import ESYS_TR

from appliance.keys.attestation.measurements import Image, Measurements
from appliance.keys.certificates import Authority
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.clock import KeeperClock
from appliance.keys.keeper.keeper import Keeper
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.policy import COUNTER_INDEX, HELD_PCR, IMAGE_PCR
from appliance.keys.tpm.provisioning import KEY_FILE
from appliance.keys.tpm.public import Digest, p256_key, sha256
from appliance.keys.tpm.simulated_boot import SIMULATED_PCRS, pcr_signatures, simulated_word
from appliance.watchdog.probes.clock import ClockProbe
from appliance.watchdog.probes.key import KeyProbe
from appliance.watchdog.probes.quote import ImageFiles, QuoteProbe
from appliance.watchdog.probes.witness import Witness
from appliance.watchdog.probing import AsyncProbe, Reading
from appliance.watchdog.suspicions import Code, ProbeName
from tests.attesting import SimulatedFirmware, SimulatedTpm
from tests.keepers import BUILDER, Site
from tests.tpm import SoftwareTpm, image_key, software_tpm

WORD: Final = sha256(b"something else")


@dataclass
class TpmBox:
    """An enrolled box with a real keeper in this process. :param latched: what the watchdog's journal says."""

    folder: Path
    tpm: SoftwareTpm
    site: Site
    keeper: Keeper
    others: list[SoftwareTpm] = field(default_factory=list)
    latched: bool = False
    wall: Callable[[], float] = time.time
    made: dict[ProbeName, AsyncProbe] = field(default_factory=dict)

    @property
    def pki(self) -> PkiFolder:
        """Where its certificates lie."""
        return PkiFolder(self.site.folder / "pki")

    def probes(self, run: str = "run-watchdog") -> dict[ProbeName, AsyncProbe]:
        """The three probes, as a watchdog that just started has them."""
        run_dir = self.folder / run
        run_dir.mkdir(exist_ok=True)
        witness = Witness(cast(KeeperPort, Whoever(self)), self.pki, run_dir)
        files = ImageFiles(self.site.folder / "pcrsig.json", self.pki.measurements)
        found: tuple[AsyncProbe, ...] = (
            QuoteProbe(witness, files, lambda: self.latched, again_s=0.0),
            KeyProbe(witness, lambda: self.latched, again_s=0.0),
            ClockProbe(witness, run_dir, lambda: self.wall(), fresh_s=0.0),  # noqa: PLW0108 - set later
        )
        self.made = {probe.name: probe for probe in found}
        return self.made

    async def stop(self) -> None:
        """End the keeper, so that somebody else may have the TPM."""
        await self.keeper._worker.close()

    async def start(self, *, boot: bool = True) -> None:
        """Start it again. :param boot: whether a boot is simulated; not so where PCRs are to stay as they are."""
        self.site.write(self.tpm.tcti, {0: ("administrator",)}, boot=boot)
        self.keeper = await new_keeper(self.site)

    async def root(self, attack: Callable[[Device], None]) -> None:
        """Do something with the TPM behind the keeper's back."""
        await self.stop()
        with Device(self.tpm.tcti) as device:
            attack(device)
        await self.start(boot=False)

    async def described(self) -> EnrolledBox:
        """What the box is now, as enrolment writes it down."""
        told = await self.keeper.describe()
        policy, key = BirthPolicy.parse(told.policy), p256_key(told.ak_public)
        return EnrolledBox(self.site.zone, policy, told.boundary_public, key)

    def pcrs(self) -> dict[int, bytes]:
        """What PCRs 4, 9 and 11 hold after a simulated boot."""
        return {4: bytes(32), 9: bytes(32), 11: sha256(bytes(32) + simulated_word(11))}


class Whoever:
    """The box's keeper, whichever it is now."""

    def __init__(self, box: TpmBox) -> None:
        self._box = box

    def __getattr__(self, name: str) -> Any:
        """A call of the port."""
        return getattr(self._box.keeper, name)


async def new_keeper(site: Site) -> Keeper:
    """A keeper in this process, which has looked at its TPM."""
    config = site.config
    for name in ("state", "run", "session", "status"):
        (site.folder / name).mkdir(exist_ok=True)
    keeper = Keeper(config, KeeperClock(config))
    await keeper.tick()
    return keeper


@dataclass(frozen=True)
class Enrolled:
    """A box that was enrolled once and switched off; copies of it are boxes. Making keys takes the longest."""

    folder: Path
    hub: Authority

    @classmethod
    def make(cls, folder: Path) -> Enrolled:
        """Make it."""

        async def enrol(tcti: str) -> Authority:
            site = Site(folder / "site", tcti)
            write_logs(site.folder)
            keeper = await new_keeper(site)
            await site.enrol(keeper)
            await keeper._worker.close()
            return site.hub_ca

        with software_tpm(folder / "tpm") as tpm:
            hub = trio.run(enrol, tpm.tcti)
        return cls(folder, hub)


@asynccontextmanager
async def tpm_box(folder: Path, enrolled: Enrolled) -> AsyncIterator[TpmBox]:
    """A box that is enrolled and knows the time; its logs explain its PCRs. ``tpm-copy`` is its TPM before the boot."""
    for name in ("tpm", "site"):
        shutil.copytree(enrolled.folder / name, folder / name)
    shutil.copytree(folder / "tpm", folder / "tpm-copy")
    with software_tpm(folder / "tpm") as tpm:
        site = Site(folder / "site", tpm.tcti, hub=enrolled.hub)
        box = TpmBox(folder, tpm, site, await new_keeper(site))
        try:
            await site.tell_time(box.keeper)
            yield box
        finally:
            await box.stop()
            for other in box.others:
                other.stop()


def write_logs(folder: Path) -> None:
    """The logs of a simulated boot: the firmware measured PCR 7, the stub the rest, systemd the last word of PCR 15."""
    firmware = SimulatedFirmware(SimulatedTpm())
    log = firmware.log
    for pcr in SIMULATED_PCRS:
        if pcr != 15:
            log += _event(pcr, simulated_word(pcr))
    (folder / "boot.log").write_bytes(log)
    (folder / "runtime.log").write_bytes(record(15, simulated_word(15)))


def _event(pcr: int, digest: bytes) -> bytes:
    """One event of the firmware's log with this digest."""
    firmware = SimulatedFirmware(SimulatedTpm())
    whole = firmware._event(pcr, 0xD, b"", b"simulated")
    return whole.replace(hashlib.sha256(b"").digest(), digest)


def record(pcr: int, digest: bytes, word: str = "simulated") -> bytes:
    """One record of systemd's log."""
    digests = [{"hashAlg": "sha256", "digest": digest.hex()}]
    content = {"eventType": "phase", "string": word, "bootId": "0" * 32}
    values = {"pcr": pcr, "digests": digests, "content_type": "systemd", "content": content}
    return b"\x1e" + json.dumps(values).encode() + b"\n"


def extend(pcr: int, digest: Digest = WORD) -> Callable[[TpmBox], Awaitable[None]]:
    """Extend a PCR."""

    async def inject(box: TpmBox) -> None:
        await box.root(lambda device: device.pcr_extend(pcr, digest))

    return inject


async def other_image(box: TpmBox) -> None:
    """Another image was booted, with logs that say so; nobody signed it."""
    with (box.site.folder / "runtime.log").open("ab") as log:
        log.write(record(IMAGE_PCR, WORD))
    await extend(IMAGE_PCR)(box)


async def foreign_signatures(box: TpmBox) -> None:
    """The signatures beside the image are those of another builder."""
    box.site.sign_image(pcr_signatures(image_key(), [box.pcrs()[11]]))


async def other_loader(box: TpmBox) -> None:
    """The document of measurements knows this image, with another boot loader before it."""
    pcrs = {**box.pcrs(), 4: WORD}
    write_measurements(box, pcrs)


def write_measurements(box: TpmBox, pcrs: dict[int, bytes]) -> None:
    """Put a signed document beside the certificates."""
    image = Image("1.0.0", 1, {pcr: (value,) for pcr, value in pcrs.items()})
    box.pki.measurements.write_bytes(Measurements(1, 1, (image,)).sign(BUILDER).render())


async def other_tpm(box: TpmBox) -> None:
    """Another TPM answers, with a keeper of its own."""
    other = SoftwareTpm(box.folder / "other-tpm").start()
    box.others.append(other)
    site = Site(box.folder / "other-site", other.tcti, hub=box.site.hub_ca)
    write_logs(site.folder)
    keeper = await new_keeper(site)
    await site.enrol(keeper)
    await box.stop()
    box.keeper, box.tpm = keeper, other


async def other_key(box: TpmBox) -> None:
    """The key file was removed, and the keeper made a new boundary key in the same TPM."""
    await box.stop()
    (box.site.folder / "state" / KEY_FILE).unlink()
    (box.site.folder / "state" / "device-ca.pem").unlink()
    await box.start()


async def latch_elsewhere(box: TpmBox) -> None:
    """Somebody increments the counter behind everybody's back, as a restored disk finds it."""
    await box.root(lambda device: device.nv_increment(COUNTER_INDEX))


async def counter_anew(box: TpmBox) -> None:
    """The counter is removed and made anew by the owner's right; the keeper mends it, and it has gone on."""
    await box.root(lambda device: device.nv_undefine(COUNTER_INDEX))


async def reset(box: TpmBox) -> None:
    """The TPM alone is reset, and the attacker extends its PCRs again as the boot had done."""
    await box.stop()
    box.tpm.reset()
    await box.start()


async def older_state(box: TpmBox) -> None:
    """A virtual TPM is put back to a copy of its state, at which it had been started as often, after an hour.

    The hour is *simulated*: the owner sets the clock forward, which the probe takes for an hour that it did not look.
    """
    await box.root(lambda device: hours_later(device, 1))
    reading = await box.made[ProbeName.CLOCK].look()
    assert {seen.code for seen in reading.seen} == {Code.CLOCK_IMPLAUSIBLE}, reading  # boundary time has gone on too
    await box.stop()
    box.tpm.stop()
    shutil.rmtree(box.tpm.folder)
    shutil.copytree(box.folder / "tpm-copy", box.tpm.folder)
    box.tpm.start()
    await box.start()


def hours_later(device: Device, hours: int) -> None:
    """TPM2_ClockSet (part 3, 29.2)."""
    later = device.clock().clock_ms + hours * 3_600_000
    device.run("clock_set", lambda: device.esys.clock_set(later, auth=ESYS_TR.OWNER))


async def runtime_log_cut(box: TpmBox) -> None:
    """The last record of the system's log is removed."""
    (box.site.folder / "runtime.log").write_bytes(b"")


async def runtime_log_longer(box: TpmBox) -> None:
    """A record is added of what was never measured."""
    with (box.site.folder / "runtime.log").open("ab") as log:
        log.write(record(15, WORD))


async def runtime_log_nonsense(box: TpmBox) -> None:
    """The log is no log."""
    (box.site.folder / "runtime.log").write_bytes(b"{}")


async def boot_log_altered(box: TpmBox) -> None:
    """One digest of the firmware's log is another."""
    path = box.site.folder / "boot.log"
    path.write_bytes(path.read_bytes().replace(simulated_word(7), WORD))


@dataclass(frozen=True)
class TpmTampering:
    """One thing to do. :param codes: exactly what the probe must see; other probes may see consequences."""

    name: str
    probe: ProbeName
    codes: frozenset[Code]
    inject: Callable[[TpmBox], Awaitable[None]]


def _of(probe: ProbeName, inject: Callable[[TpmBox], Awaitable[None]], *codes: Code, name: str = "") -> TpmTampering:
    return TpmTampering(name or inject.__name__, probe, frozenset(codes), inject)


# A PCR that is extended by hand is in no log: so that the log does not lead there is seen as well.
_UNLOGGED: Final = Code.EVENT_LOG_FORGED
_STATE: Final = (Code.BOOT_STATE_CHANGED, _UNLOGGED)
TAMPERINGS: Final = (
    _of(ProbeName.QUOTE, other_tpm, Code.QUOTE_FOREIGN),
    _of(ProbeName.QUOTE, other_image, Code.IMAGE_UNKNOWN),
    _of(ProbeName.QUOTE, foreign_signatures, Code.IMAGE_UNKNOWN),
    _of(ProbeName.QUOTE, other_loader, Code.IMAGE_UNKNOWN),
    *(_of(ProbeName.QUOTE, extend(pcr), *_STATE, name=f"pcr_{pcr}_extended") for pcr in (7, 12, 13, 15)),
    _of(ProbeName.QUOTE, extend(HELD_PCR), Code.LATCH_PCR_EXTENDED, name="pcr_14_extended"),
    _of(ProbeName.QUOTE, runtime_log_cut, Code.EVENT_LOG_FORGED),
    _of(ProbeName.QUOTE, runtime_log_longer, Code.EVENT_LOG_FORGED),
    _of(ProbeName.QUOTE, runtime_log_nonsense, Code.EVENT_LOG_FORGED),
    _of(ProbeName.QUOTE, boot_log_altered, Code.EVENT_LOG_FORGED),
    _of(ProbeName.KEY, other_tpm, Code.KEY_NOT_PROVABLE, name="key_of_another_tpm"),
    _of(ProbeName.KEY, other_key, Code.KEY_NOT_PROVABLE),
    _of(ProbeName.KEY, latch_elsewhere, Code.KEY_LATCHED),
    _of(ProbeName.KEY, counter_anew, Code.KEY_LATCHED),
    _of(ProbeName.CLOCK, reset, Code.TPM_RESET),
    _of(ProbeName.CLOCK, older_state, Code.TPM_CLOCK_BACK),
)


async def seen_by(probe: AsyncProbe) -> tuple[frozenset[Code], Reading]:
    """What a probe sees, and all that it says."""
    reading = await probe.look()
    return frozenset(seen.code for seen in reading.seen), reading
