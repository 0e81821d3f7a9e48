# SPDX-License-Identifier: Apache-2.0
"""The guard of the hub's leaf connections, on real nats-servers: what ends, what comes back, and what does not."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.process import BrokerProcess
from appliance.hub.leaf_guard import Leaf, LeafBook, LeafGuard, authorities_pem
from appliance.keys.certificates import Authority, certificate_pem, new_device_ca, new_session
from appliance.keys.denied import Denial, deny
from appliance.keys.devca import HUB_CA_FILE
from appliance.keys.registry import LiveRegistry, Registry
from appliance.keys.software import SoftwareKeys
from appliance.node.config import ControlConfig, Endpoint
from tests.brokers import SECRETS, as_client
from tests.service.test_brokers_control import HUB, A, B, World
from tests.wires import until


@dataclass
class Guarded:
    """A hub whose leaf listener takes its roots from the guard's file."""

    world: World
    root: Path
    refusals: dict[ZoneId, BsfgError] = field(default_factory=dict)
    """Why a zone may not come in, beside the deny list."""

    @property
    def authorities(self) -> Path:
        """The file of device CAs."""
        return self.root / "control" / "authorities.pem"

    def text(self) -> str:
        """The hub's configuration."""
        return self.world.text(HUB, authorities=self.authorities)

    def config(self) -> ControlConfig:
        """What the guard is told."""
        secrets = self.root / "control-secrets.json"
        secrets.write_text(json.dumps({"sys": SECRETS.system}))
        listen = self.world.listen(HUB)
        return ControlConfig(Endpoint(listen.host, listen.port), secrets, self.authorities)

    def registry(self) -> Registry:
        """The hub's registry now."""
        return Registry.load(self.world.places[HUB].pki)

    @asynccontextmanager
    async def guard(self, longest: timedelta = timedelta(minutes=10)) -> AsyncIterator[LeafGuard]:
        """The guard, at work."""
        registry = LiveRegistry(self.world.places[HUB].pki)
        guard = LeafGuard(self.config(), registry, self.refusals.get, longest)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(registry.run)
            nursery.start_soon(guard.run)
            yield guard
            nursery.cancel_scope.cancel()

    def deny(self, zone: ZoneId) -> None:
        """Enter the zone's device CA into the deny list."""
        boundary = SoftwareKeys.load(zone, self.world.places[zone].pki.path).boundary
        deny(self.world.places[HUB].pki.denied, Denial.of(boundary.certificate, zone, "stolen", 1))


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    """Two plants, enrolled."""
    found = Guarded(World(tmp_path), tmp_path)
    found.authorities.parent.mkdir()
    found.authorities.write_bytes(authorities_pem(found.registry().trusted()))
    return found


def refusals(guarded: Guarded) -> int:
    """How many leaves the hub's broker has refused in the handshake."""
    return (guarded.world.places[HUB].folder / "control.log").read_text().count("TLS leafnode handshake error")


async def joined(guarded: Guarded, *zones: ZoneId) -> None:
    """Wait until exactly these zones' leaves are there."""
    await as_client(lambda: guarded.world.joined(*zones))


async def test_a_denied_box_is_cut_off_and_kept_out(guarded: Guarded) -> None:
    """Within seconds; the other zone's leaf stays; a new box of the same zone is let in, the old one is not."""
    world, zone_a = guarded.world, guarded.world.places[A]
    stolen = zone_a.pki.session.read_bytes()
    async with world.all(enterprise=guarded.text()) as brokers, guarded.guard() as guard:
        await until(lambda: guard.age_of(A) is not None and guard.age_of(B) is not None)
        before = guard.age_of(B)
        assert guard.kicked == 0
        guarded.deny(A)
        with trio.fail_after(10):
            await until(lambda: guard.age_of(A) is None)
            await until(lambda: guard.kicked == 1)
        refused = refusals(guarded)
        with trio.fail_after(20):
            await until(lambda: refusals(guarded) > refused)
        assert await as_client(world.leaves) == [("plant-b-control", "ZONE_PLANT_B")]
        assert (guard.age_of(B) or 0) >= (before or 0)
        assert guard.problem is None
        replace_box(guarded, brokers[A])
        await joined(guarded, A, B)
        zone_a.pki.session.write_bytes(stolen)
        brokers[A].reload()
        await brokers[A].kill()
        await brokers[A].start()
        refused = refusals(guarded)
        with trio.fail_after(20):
            await until(lambda: refusals(guarded) > refused)
        assert await as_client(world.leaves) == [("plant-b-control", "ZONE_PLANT_B")]


def replace_box(guarded: Guarded, broker: BrokerProcess) -> None:
    """Enrol another box for zone A: a new boundary key, known to the hub, with a session of its own."""
    hub_ca = Authority.from_pem((guarded.root / "ca" / HUB_CA_FILE).read_bytes())
    now = datetime.now(UTC)
    newer = new_device_ca(hub_ca, A, now)
    registered = guarded.world.places[HUB].pki.zone(A)
    registered.write_bytes(registered.read_bytes() + certificate_pem(newer.certificate))
    guarded.world.places[A].pki.session.write_bytes(new_session(newer, A, now).pem())
    broker.reload()


async def test_a_leaf_does_not_outlive_the_longest_session(guarded: Guarded) -> None:
    """It is kicked when it is as old as that, comes back with its present certificate, and not with an ended one."""
    world = guarded.world
    keys = SoftwareKeys.load(A, world.places[A].pki.path)
    async with world.broker(HUB, guarded.text()), world.broker(A) as plant:
        await joined(guarded, A)
        async with guarded.guard(timedelta(seconds=3)) as guard:
            await until(lambda: guard.kicked >= 1)
            await joined(guarded, A)
            keys.renew_session(timedelta(minutes=1), datetime.now(UTC) - timedelta(minutes=2))
            plant.reload()
            await until(lambda: guard.kicked >= 2)
            refused = refusals(guarded)
            with trio.fail_after(20):
                await until(lambda: refusals(guarded) > refused)
            assert await as_client(world.leaves) == []


async def test_a_broker_that_is_away_is_a_problem_until_it_is_back(guarded: Guarded) -> None:
    """What was denied meanwhile counts when it is."""
    world = guarded.world
    async with guarded.guard() as guard:
        await until(lambda: guard.problem is not None)
        assert guard.problem is not None
        assert guard.problem.reason == Reason.BROKER_UNAVAILABLE
        guarded.deny(A)
        async with world.broker(HUB, guarded.text()), world.broker(B):
            await until(lambda: guard.problem is None)
            await until(lambda: guarded.authorities.read_bytes() == authorities_pem(guarded.registry().trusted()))
            async with world.broker(A):
                with trio.fail_after(20):
                    await until(lambda: refusals(guarded) > 0)
                await joined(guarded, B)
            guarded.refusals[B] = DeniedError(Reason.ATTESTATION_STALE)
            with trio.fail_after(3):
                await until(lambda: guard.age_of(B) is None)
            del guarded.refusals[B]
            await joined(guarded, B)


def test_nobody_is_trusted_where_nobody_is_left(guarded: Guarded) -> None:
    """The file then holds a CA that has signed nothing, and stays as it is; nats-server would refuse an empty one."""
    for zone in (HUB, A, B):
        guarded.deny(zone)
    registry = guarded.registry()
    assert registry.trusted() == []
    pem = authorities_pem(registry.trusted())
    (nobody,) = x509.load_pem_x509_certificates(pem)
    assert nobody.subject.rfc4514_string() == "CN=nobody"
    assert authorities_pem(registry.trusted(), pem) == pem


def test_ages_are_never_taken_for_less_than_they_may_be() -> None:
    """Not younger than the broker's start, or the last look without it; a new start forgets the ids."""
    book, a, b = LeafBook(100.0), Leaf(1, "A"), Leaf(2, "B")
    book.begin("X", 40.0, 1000.0)
    assert book.step([a], set(), 1000.0) == []
    assert book.ages([a], 1000.0) == {"A": 40}
    assert book.step([a, b], set(), 1059.0) == []
    assert book.step([a, b], set(), 1060.0) == [a]
    assert book.ages([b], 1060.0) == {"B": 60}  # since the look that did not show it
    assert book.step([b], {"B"}, 1061.0) == [b]
    assert book.step([b], set(), 1100.0) == [b]
    book.begin("Y", 1.0, 1200.0)
    assert book.step([a, b], set(), 1200.0) == []
    assert book.ages([a, b], 1200.0) == {"A": 1, "B": 1}
