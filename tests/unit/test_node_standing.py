# SPDX-License-Identifier: Apache-2.0
"""What a node says it can prove: each state of its keeper, boundary time, and certificates that are about to end."""

from __future__ import annotations

import ssl
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import new_device_ca, new_hub_ca, new_session
from appliance.keys.devca import ensure_pki
from appliance.keys.keeper.port import KeeperPort, KeeperState, KeeperStatus, SessionInfo
from appliance.keys.software import SoftwareKeys
from appliance.node import standing as standing_module
from appliance.node.certificates import RULES, Alarm, CertificateKind, describe, problems
from appliance.node.standing import BoundaryNow, Standing
from appliance.peer.tls import SessionFiles
from tests.wires import until

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@dataclass
class Keeper:
    """A keeper that says of itself what a test wants; nothing else is asked of it here."""

    said: KeeperStatus | BsfgError | None
    asked: int = 0
    never: trio.Event = field(default_factory=trio.Event)

    async def status(self) -> KeeperStatus:
        """See :class:`KeeperPort`."""
        self.asked += 1
        if self.said is None:
            await self.never.wait()
        if isinstance(self.said, BsfgError):
            raise self.said
        assert self.said is not None
        return self.said


OFFSET_NS = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
READY = KeeperStatus(KeeperState.READY, "swtpm", PLANT, 7, OFFSET_NS, 5, {}, 3, 99)


@dataclass
class Bench:
    """A node's standing over files and a keeper of the test's."""

    keys: SoftwareKeys
    keeper: Keeper
    standing: Standing

    async def looked(self) -> None:
        """Wait until the keeper's present word was taken."""
        asked = self.keeper.asked
        await until(lambda: self.keeper.asked > asked + 1, 20)


@pytest.fixture
async def bench(tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A plant with a good session, and a keeper that is ready and knows the time."""
    monkeypatch.setattr(standing_module, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(standing_module, "KEEPER_PATIENCE_S", 0.1)
    ensure_pki(tmp_path / "ca", {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}, timedelta(minutes=10))
    keys = SoftwareKeys.load(PLANT, tmp_path / "plant")
    keeper = Keeper(READY)
    files = SessionFiles(ssl.PROTOCOL_TLS_CLIENT, keys.folder.session, keys.folder.hub_ca)
    as_port: KeeperPort = keeper  # type: ignore[assignment]
    standing = Standing("keeper", files, keys.registry, BoundaryNow(wall=False), keeper=as_port)
    nursery.start_soon(standing.run)
    return Bench(keys, keeper, standing)


async def test_a_good_session_proves_whatever_the_keeper_does_later(bench: Bench) -> None:
    """Until it ends: a keeper that is latched, gone or hung takes nothing back that it gave."""
    await bench.standing.ready()
    status = bench.standing.status()
    assert (status.state, status.time, status.counter, status.commands) == ("ready", "hub_token", 7, 99)
    assert status.notice.startswith("SOFTWARE TPM")
    assert bench.standing.kind == "swtpm"
    latched = replace(READY, state=KeeperState.LATCHED)
    for said in (latched, UnavailableError(Reason.KEEPER_UNAVAILABLE), None):
        bench.keeper.said = said
        await bench.looked()
        bench.standing.credential()
        assert bench.standing.proves
        assert bench.standing.status().time == "hub_token"
    assert bench.standing.status().state == "keeper_unavailable"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (KeeperState.NOT_PROVISIONED, Reason.NOT_ENROLLED),
        (KeeperState.NOT_ENROLLED, Reason.NOT_ENROLLED),
        (KeeperState.TIME_UNKNOWN, Reason.TIME_UNKNOWN),
        (KeeperState.LATCHED, Reason.KEY_LATCHED),
        (KeeperState.TPM_BUSY, Reason.TPM_BUSY),
        (KeeperState.TPM_ABSENT, Reason.TPM_ABSENT),
        (KeeperState.TPM_REFUSED, Reason.TPM_REFUSED),
        (KeeperState.TPM_FAULT, Reason.TPM_FAULT),
        (KeeperState.READY, Reason.NO_SESSION),
    ],
)
async def test_without_a_session_the_keepers_state_is_the_reason(
    bench: Bench, state: KeeperState, reason: Reason
) -> None:
    """With the keeper's own words; and it is over when there is a session again."""
    await bench.standing.ready()
    path = bench.keys.folder.session
    good = path.read_bytes()
    path.unlink()
    bench.keeper.said = replace(
        READY, state=state, problem="" if state is KeeperState.READY else f"{reason}: in its words"
    )
    await bench.looked()
    assert not bench.standing.proves
    with pytest.raises(BsfgError) as caught:
        bench.standing.credential()
    assert caught.value.reason == reason
    if state is not KeeperState.READY:
        assert caught.value.detail == "in its words"  # the reason is said once
    assert CATALOGUE[reason].hint
    path.write_bytes(good)
    with trio.fail_after(10):
        await bench.standing.ready()


async def test_every_state_of_a_keeper_has_its_reason(bench: Bench) -> None:
    """A new state needs an entry."""
    assert set(standing_module._STATES) == set(KeeperState) - {KeeperState.READY}
    assert bench.standing.longest_session_s == 1200


async def test_without_the_time_nothing_is_proven(tmp_path: Path, bench: Bench) -> None:
    """However good the session; and an ended one is refused by boundary time, not by the wall clock."""
    unknown = BoundaryNow(wall=False)
    assert (unknown.known(), unknown.source) == (None, "unknown")
    with pytest.raises(UnavailableError) as caught:
        unknown()
    assert caught.value.reason == Reason.TIME_UNKNOWN
    await bench.standing.ready()
    bench.keeper.said = replace(READY, boundary_offset_ns=OFFSET_NS + 3600 * 10**9)
    await bench.looked()
    with pytest.raises(BsfgError, match="ours ended at"):
        bench.standing.credential()


async def test_the_certificates_of_other_services_are_shown_too(bench: Bench) -> None:
    """The keeper tells of them; our own is not told twice."""
    await bench.standing.ready()
    own = bench.standing.credential()
    ends = time.time() + 100
    sessions = {
        "agent": SessionInfo(Path("a"), own.ends_at, own.serial),
        "control": SessionInfo(Path("c"), ends, "7"),
    }
    bench.keeper.said = replace(READY, sessions=sessions)
    await bench.looked()
    found = bench.standing.certificates()
    assert [(one.name, one.subject) for one in found] == [
        ("session", "plant-a-bsfg"),
        ("device_ca", "plant-a-bsfg device CA"),
        ("hub_ca", "BSFG hub CA (development, software key)"),
        ("session control", "session control"),
    ]
    assert found[3].alarm == Alarm.SOON
    assert found[0].alarm == ""


@pytest.mark.parametrize(
    ("kind", "left", "alarm"),
    [
        (CertificateKind.SESSION, timedelta(seconds=181), ""),
        (CertificateKind.SESSION, timedelta(seconds=179), "soon"),
        (CertificateKind.SESSION, timedelta(seconds=0), "ended"),
        (CertificateKind.DEVICE_CA, timedelta(days=31), ""),
        (CertificateKind.DEVICE_CA, timedelta(days=29), "soon"),
        (CertificateKind.DEVICE_CA, timedelta(days=-1), "ended"),
        (CertificateKind.HUB_CA, timedelta(days=91), ""),
        (CertificateKind.HUB_CA, timedelta(days=89), "soon"),
        (CertificateKind.LOCAL, timedelta(days=15), ""),
        (CertificateKind.LOCAL, timedelta(days=13), "soon"),
    ],
)
def test_each_kind_has_its_warning(kind: CertificateKind, left: timedelta, alarm: str) -> None:
    """In time for what there is to do about it; the problem says which one, when, and what."""
    hub = new_hub_ca(NOW)
    device = new_device_ca(hub, PLANT, NOW)
    made = {
        CertificateKind.SESSION: new_session(device, PLANT, NOW).certificate,
        CertificateKind.DEVICE_CA: device.certificate,
        CertificateKind.HUB_CA: hub.certificate,
        CertificateKind.LOCAL: device.certificate,
    }[kind]
    now = (made.not_valid_after_utc - left).timestamp()
    found = describe("x", kind, made, now)
    assert (found.alarm, found.remaining_s) == (alarm, int(left.total_seconds()))
    told = problems([found])
    assert [problem.where for problem in told] == (["certificate x"] if alarm else [])
    for problem in told:
        assert problem.reason == "certificate_ends"
        assert problem.hint == RULES[kind].hint
        assert ("has ended" in problem.detail) == (alarm == "ended")
    assert describe("x", kind, made, None).alarm == ""


def test_a_short_life_is_not_born_with_a_warning(tmp_path: Path) -> None:
    """Sessions of a minute, as tests and development may have."""
    hub = new_hub_ca(NOW)
    session = new_session(new_device_ca(hub, PLANT, NOW), PLANT, NOW, timedelta(minutes=1)).certificate
    assert describe("x", CertificateKind.SESSION, session, NOW.timestamp()).alarm == ""
    assert describe("x", CertificateKind.SESSION, session, NOW.timestamp() + 40).alarm == "soon"


def test_software_sessions_are_renewed_at_half_their_life(tmp_path: Path) -> None:
    """By the node that uses them; each as long as the one before, unless there is none that counts."""
    ensure_pki(tmp_path / "ca", {PLANT: tmp_path / "plant"}, timedelta(minutes=4))
    keys = SoftwareKeys.load(PLANT, tmp_path / "plant")
    first = keys.session()
    assert first is not None
    start = first.not_valid_before_utc + timedelta(minutes=5)
    assert not keys.renew_when_due(start + timedelta(seconds=115))
    assert keys.renew_when_due(start + timedelta(seconds=125))
    second = keys.session()
    assert second is not None
    assert second.not_valid_after_utc == start + timedelta(seconds=125, minutes=4)
    keys.folder.session.unlink()
    assert keys.renew_when_due()
