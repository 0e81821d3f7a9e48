# SPDX-License-Identifier: Apache-2.0
"""The watchdog of a box, put together: its probes, its quarantine, its sockets."""

from __future__ import annotations

import json
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.time_store import BOOT_ID
from appliance.watchdog.assessing import Assessor
from appliance.watchdog.desk import SOCKET, Desk
from appliance.watchdog.evidence.outgoing import FOLDER as OUTGOING
from appliance.watchdog.evidence.outgoing import Outgoing
from appliance.watchdog.evidence.sources import Places, sources_of
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.taking import KeptEvidence
from appliance.watchdog.looking import AgentLook, KeeperLook
from appliance.watchdog.nft import LeaseSet, NftLease
from appliance.watchdog.probes.audit import AuditProbe, KernelAudit
from appliance.watchdog.probes.firewall import FirewallPlaces, FirewallProbe
from appliance.watchdog.probes.kernel import KernelProbe
from appliance.watchdog.probes.ledger import LedgerProbe
from appliance.watchdog.probes.listeners import ListenerPlaces, ListenersProbe
from appliance.watchdog.probes.places import Places as ProbePlaces
from appliance.watchdog.probes.tpm import IMAGE_SIGNATURES, tpm_probes
from appliance.watchdog.probing import Probe
from appliance.watchdog.quarantine.case import Moment
from appliance.watchdog.quarantine.folder import FOLDER, CaseFolder
from appliance.watchdog.quarantine.keeping import KeeperLock
from appliance.watchdog.quarantine.runner import Quarantine, World
from appliance.watchdog.sensor.listening import SENSOR_USER, ReadingSocket
from appliance.watchdog.sensor.runner import Runner
from appliance.watchdog.suspicions import ProbeName
from appliance.watchdog.watchdog import Watchdog

ROOT: Final = 0
CONSOLE: Final = 956
READINGS: Final = "readings.sock"
EVIDENCE: Final = "evidence"
IMAGE: Final = Path("/usr/lib/bsfg/image.json")
OF_THE_SENSOR: Final = frozenset(
    {
        ProbeName.SENSOR,
        ProbeName.VERITY,
        ProbeName.FIRMWARE,
        ProbeName.MOUNTS,
        ProbeName.CONFIGURATION,
        ProbeName.EXECUTABLES,
        ProbeName.HARDWARE,
        ProbeName.DISK,
    }
)
"""The probes of the sensor's process; without its readings nothing leaves the box."""


@dataclass(frozen=True, slots=True)
class Choices:
    """Where everything is; the defaults are a box's.

    :param element: what stands in the firewall's set while it is open. :param state: the quarantine's own folder.
    :param root: what image and loader have left is below it. :param boot_id: names this start of the machine.
    :param without: probes that do not look and are not waited for. :param users: who may ask the watchdog.
    """

    status: Path = Path("/run/bsfg/status")
    keeper: Path = Path("/run/bsfg/keeper/keeper.sock")
    element: str = LeaseSet().element
    state: Path = FOLDER
    run: Path = SOCKET.parent
    node: Path = Path("/run/bsfg/config/node.toml")
    pki: Path = Path("/var/lib/bsfg/pki")
    without: frozenset[str] = frozenset()
    users: frozenset[int] = frozenset({ROOT, CONSOLE})
    sensor_user: int = SENSOR_USER
    root: Path = Path("/")
    boot_id: Path = BOOT_ID


@dataclass(frozen=True, slots=True)
class Parts:
    """A watchdog with its sockets. :param local: probes of this process that block."""

    watchdog: Watchdog
    desk: Desk
    outgoing: Outgoing
    local: tuple[Probe, ...]
    choices: Choices

    async def run(self) -> None:
        """Run until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.desk.run)
            nursery.start_soon(self.outgoing.run, self.watchdog.quarantine.awaits_release)
            if self.local:
                nursery.start_soon(Runner(self.local, self.watchdog.took).run)
            if ProbeName.SENSOR in self.watchdog.assessor.probes:
                async with ReadingSocket(self.choices.run / READINGS, self.choices.sensor_user) as readings:
                    await self.watchdog.run(readings)
            else:
                await self.watchdog.run()


def assemble(choices: Choices, keeper: KeeperPort) -> Parts:
    """Put it together; nothing runs yet.

    :raises RefusedError: ``bad_input``: the node's configuration names no zone.
    """
    place = LeaseSet(element=choices.element)
    sources = sources_of(Places(choices.root), lambda: assessor.readings())  # noqa: PLW0108 - made below
    store = EvidenceStore(choices.state / EVIDENCE)
    evidence = KeptEvidence(keeper, sources, store)
    evidence.prepare()
    world = World(
        NftLease(place),
        KeeperLock(keeper),
        evidence,
        CaseFolder(choices.state),
        Moments(zone_of(choices.node), image_of(choices.root / IMAGE.relative_to("/")), boot_of(choices.boot_id)).now,
        lambda: watchdog.report(),  # noqa: PLW0108 - made below
    )
    quarantine = Quarantine(world)

    def wanted(name: str) -> bool:
        return name not in choices.without

    signatures = choices.root / IMAGE_SIGNATURES.relative_to("/")
    by_tpm = tpm_probes(
        keeper, lambda: quarantine.known, pki=choices.pki, run_dir=choices.run, image_signatures=signatures
    )
    asking = [probe for probe in by_tpm if wanted(probe.name)]
    blocking: tuple[Probe, ...] = (
        FirewallProbe(FirewallPlaces.below(choices.root)),
        KernelProbe(ProbePlaces()),
        ListenersProbe(ListenerPlaces.below(choices.root)),
        AuditProbe(KernelAudit, choices.run),
        LedgerProbe(choices.status / "agent.json"),
    )
    local = [probe for probe in blocking if wanted(probe.name)]
    own = {probe.name for probe in asking} | {probe.name for probe in local}
    assessor = Assessor(frozenset(own | {name for name in OF_THE_SENSOR if wanted(name)}))
    looks = (KeeperLook(keeper), AgentLook(choices.status / "agent.json"))
    lease = NftLease(place)
    outgoing = Outgoing(keeper, store, choices.run / OUTGOING)
    watchdog = Watchdog(lease, lease, quarantine, looks, choices.status, assessor, asking, request=outgoing.text)
    desk = Desk(watchdog, choices.run / SOCKET.name, choices.users, outgoing.lay_out)
    return Parts(watchdog, desk, outgoing, tuple(local), choices)


@dataclass(frozen=True, slots=True)
class Moments:
    """Where and when it is. :param boot_id: the kernel's random id of this boot."""

    zone: ZoneId
    image: str
    boot_id: str

    def now(self) -> Moment:
        """This moment."""
        boottime_ms = time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000
        return Moment(self.zone, self.boot_id, time.time_ns() // 1_000_000, boottime_ms, self.image)


def boot_of(document: Path) -> str:
    """Which start of the machine this is. :raises RefusedError: ``bad_input``: nobody says; then nothing opens."""
    try:
        return document.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{document}: {error}") from error


def zone_of(node: Path) -> ZoneId:
    """The zone that the node's configuration names; the rest of it is the node's business.

    :raises RefusedError: ``bad_input``: it names none, or is not there.
    """
    try:
        return parse_zone(tomllib.loads(node.read_text("utf-8"))["node"]["zone"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{node}: {error}") from error


def image_of(document: Path) -> str:
    """The version of the image that runs; empty where it does not say."""
    try:
        version = json.loads(document.read_bytes())["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return version if isinstance(version, str) and len(version) <= 64 and version.isprintable() else ""
