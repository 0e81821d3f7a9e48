# SPDX-License-Identifier: Apache-2.0
"""Agent and hub as processes, and what they can prove: it comes, goes and ends, and local work never waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nats
import pytest
import trio

from appliance.boundary.names import ZoneId
from appliance.dev.environment import Environment, PortName
from appliance.dev.layout import ENTERPRISE, PLANT
from appliance.keys.certificates import Authority, certificate_pem, certify_device_ca
from appliance.keys.denied import Denial, allow, deny
from appliance.keys.devca import HUB_CA_FILE, ensure_pki
from appliance.keys.folder import PkiFolder
from appliance.keys.software import SoftwareKeys
from appliance.node.status import StatusDocument
from tests.brokers import as_client
from tests.produced import payload, subject
from tests.service.test_node_process import is_ready, node, status
from tests.wires import until
from tests.zones import running_broker, two_zones


@dataclass
class Site:
    """Two zones that know each other by software keys, the agent dialling the hub without a link in between."""

    environment: Environment

    @classmethod
    def make(cls, folder: Path) -> Site:
        """Files alone."""
        environment = two_zones(folder)
        ports = environment.ports
        path = environment.layout.zone(PLANT).node_config
        text = path.read_text()
        assert f"port = {ports[PortName.LINK_RPC]}" in text
        path.write_text(text.replace(f"port = {ports[PortName.LINK_RPC]}", f"port = {ports[PortName.HUB_RPC]}"))
        return cls(environment)

    def keys(self, zone: ZoneId) -> SoftwareKeys:
        """A zone's keys."""
        return SoftwareKeys.load(zone, self.environment.layout.zone(zone).pki)

    def folder(self, zone: ZoneId) -> PkiFolder:
        """A zone's certificates."""
        return PkiFolder(self.environment.layout.zone(zone).pki)

    def hub_ca(self) -> Authority:
        """The development CA."""
        return Authority.from_pem((self.environment.layout.ca / HUB_CA_FILE).read_bytes())

    def status(self, zone: ZoneId) -> StatusDocument:
        """What its node says, once it says anything."""
        if not self.environment.layout.zone(zone).status_document.exists():
            return StatusDocument("", zone, "", 0, False, "", 0, 0, 0, "")
        return status(self.environment, zone)

    async def ready(self, *zones: ZoneId) -> None:
        """Wait until these nodes are."""
        await until(lambda: all(is_ready(self.environment, zone) for zone in zones), 20)
        await until(lambda: all("broker_unavailable" not in self.problems(zone) for zone in zones), 10)

    def problems(self, zone: ZoneId) -> set[str]:
        """The reasons of what is wrong there; no nats-control runs here, so the guard of its leaves is not asked."""
        return {problem.reason for problem in self.status(zone).problems if problem.where != "leaf guard"}

    def received(self, zone: ZoneId) -> int:
        """How many facts of the plant the hub has."""
        return sum(c.offset for c in self.status(zone).crossings if c.name == "push audit")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Both brokers."""
        async with AsyncExitStack() as stack:
            for zone in (PLANT, ENTERPRISE):
                await stack.enter_async_context(running_broker(self.environment, zone))
            yield

    async def publish(self, *ids: str) -> list[int]:
        """Publish facts in the plant, as a local producer; their offsets."""

        async def scenario() -> list[int]:
            login = self.environment.facts_login(PLANT, "sensors")
            connection = await nats.connect(**login, allow_reconnect=False)
            try:
                js = connection.jetstream()
                where = subject(producer="sensors")
                acks = await asyncio.gather(*(js.publish(where, payload(one), timeout=10) for one in ids))
                return [ack.seq for ack in acks]
            finally:
                await connection.close()

        return await as_client(scenario)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Made anew."""
    return Site.make(tmp_path)


@contextmanager
def rewritten(path: Path, change: Callable[[str], str]) -> Iterator[None]:
    """A file, changed for a while."""
    text = path.read_text()
    path.write_text(change(text))
    try:
        yield
    finally:
        path.write_text(text)


def with_keeper(text: str) -> str:
    """A node configuration that names a keeper which is not there."""
    software = '[keys]\nkind = "software"\npki_dir = "pki"\n'
    assert software in text
    return text.replace(
        software, '[keys]\nkind = "keeper"\npki_dir = "no-pki"\nsocket = "no.sock"\nsession = "no/agent.pem"\n'
    )


async def test_local_work_needs_no_keeper_no_enrolment_no_session_and_no_time(site: Site) -> None:
    """Facts are taken and kept; the status says what is missing; a hub does not listen before it can prove itself."""
    layout = site.environment.layout
    with (
        rewritten(layout.zone(PLANT).node_config, with_keeper),
        rewritten(layout.zone(ENTERPRISE).node_config, with_keeper),
    ):
        async with site.running(), node(site.environment, PLANT), node(site.environment, ENTERPRISE):
            await site.ready(PLANT)
            assert await site.publish("a", "b") == [1, 2]
            await until(lambda: "keeper_unavailable" in site.problems(PLANT), 10)
            document = site.status(PLANT)
            assert (document.keys, document.mode, document.boundary.state, document.boundary.time) == (
                "keeper",
                "autonomous",
                "keeper_unavailable",
                "unknown",
            )
            assert {problem.where for problem in document.problems} == {"boundary", "registry"}
            assert all(problem.hint for problem in document.problems)
            assert [crossing.step for crossing in document.crossings] == ["locate"] * 4
            await until(lambda: "keeper_unavailable" in site.problems(ENTERPRISE), 10)
            await until(lambda: site.status(ENTERPRISE).broker.durable, 10)
            hub = site.status(ENTERPRISE)
            assert (hub.ready, hub.broker.durable, hub.boundary.time) == (False, True, "wall_clock")
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", site.environment.ports[PortName.HUB_RPC])


async def test_sessions_rotate_under_load_and_a_denied_box_is_out_within_two_seconds(site: Site) -> None:
    """Sessions of 15 s, renewed every 3 s; nothing fails, all facts cross; then the hub denies the box."""
    keys = [site.keys(zone) for zone in (PLANT, ENTERPRISE)]
    async with site.running(), node(site.environment, ENTERPRISE), node(site.environment, PLANT):
        for one in keys:
            one.renew_session(timedelta(seconds=15))
        await site.ready(PLANT, ENTERPRISE)
        await until(lambda: site.status(PLANT).mode == "normal" and not site.problems(PLANT), 20)
        changes, seen, sent, renewed = site.status(PLANT).mode_changes, set[str](), 0, 0
        begun = trio.current_time()
        while trio.current_time() < begun + 17:
            if trio.current_time() > begun + 3 * renewed:
                renewed += 1
                for one in keys:
                    await trio.to_thread.run_sync(one.renew_session, timedelta(seconds=15))
            await site.publish(*(f"m-{number}" for number in range(sent, sent + 25)))
            sent += 25
            seen |= site.problems(PLANT) | site.problems(ENTERPRISE)
            await trio.sleep(0.2)
        assert seen == set()
        await until(lambda: site.received(PLANT) == sent, 15)
        plant, hub = site.status(PLANT), site.status(ENTERPRISE)
        assert (plant.mode, plant.mode_changes) == ("normal", changes)
        assert min(plant.boundary.renewals, hub.boundary.renewals) >= 2
        assert min(plant.boundary.handshakes_accepted, hub.boundary.handshakes_accepted) >= 3
        assert plant.boundary.handshakes_refused == hub.boundary.handshakes_refused == {}
        assert plant.boundary.notice.startswith("SOFTWARE KEYS")
        assert [one.kind for one in plant.certificates] == ["session", "device_ca", "hub_ca"]
        await deny_and_allow(site, sent)


async def deny_and_allow(site: Site, sent: int) -> None:
    """The box is out within two seconds, works on, and is in again."""
    boundary = site.keys(PLANT).boundary.certificate
    denial = Denial.of(boundary, PLANT, "sold with the machine", 1)
    calls = site.status(ENTERPRISE).peers[0].calls
    deny(site.folder(ENTERPRISE).denied, denial)
    await trio.sleep(2)
    assert "box_revoked" in site.status(ENTERPRISE).boundary.handshakes_refused
    await until(lambda: "box_revoked" in site.problems(PLANT), 3)
    calls = site.status(ENTERPRISE).peers[0].calls
    assert await site.publish("while-denied") == [sent + 1]
    await trio.sleep(1)
    assert site.status(ENTERPRISE).peers[0].calls == calls
    assert site.received(PLANT) == sent
    allow(site.folder(ENTERPRISE).denied, [denial.certificate])
    await until(lambda: site.received(PLANT) == sent + 1, 20)


def end_soon(site: Site, zone: ZoneId, seconds: float) -> datetime:
    """Give a zone a device CA that ends soon; when."""
    keys = site.keys(zone)
    now = datetime.now(UTC)
    key = keys.boundary.key
    certificate = certify_device_ca(site.hub_ca(), zone, key.public_key(), now, timedelta(seconds=seconds))
    keys.folder.boundary.write_bytes(Authority(key, certificate).pem())
    for holder in (PLANT, ENTERPRISE):
        site.folder(holder).zone(zone).write_bytes(certificate_pem(certificate))
    site.keys(zone).renew_session()
    return certificate.not_valid_after_utc


async def test_ended_and_foreign_certificates_fail_closed_while_local_work_goes_on(site: Site) -> None:
    """The device CA ends in mid-stream: the link is cut then, and the box goes on. Another site's box gets nowhere."""
    async with site.running(), node(site.environment, ENTERPRISE):
        await site.ready(ENTERPRISE)
        ends = end_soon(site, PLANT, 9)
        async with node(site.environment, PLANT):
            await site.ready(PLANT)
            assert await site.publish("before") == [1]
            await until(lambda: site.received(PLANT) == 1, 20)
            assert datetime.now(UTC) < ends
            await until(lambda: "bad_certificate" in site.problems(PLANT), 20)
            assert datetime.now(UTC) > ends - timedelta(seconds=1)
            await until(lambda: site.status(PLANT).mode == "autonomous", 5)
            document = site.status(PLANT)
            assert [(c.kind, c.alarm) for c in document.certificates][:2] == [
                ("session", "ended"),
                ("device_ca", "ended"),
            ]
            assert "certificate_ends" in site.problems(PLANT)
            assert await site.publish("after") == [2]
            assert site.received(PLANT) == 1
        make_foreign(site)
        site.environment.layout.zone(PLANT).status_document.unlink()
        async with node(site.environment, PLANT):
            await site.ready(PLANT)
            assert await site.publish("foreign") == [3]
            await until(lambda: "bad_certificate" in site.problems(PLANT), 10)
            await until(lambda: bool(site.status(PLANT).boundary.handshakes_refused), 10)
            assert site.status(PLANT).boundary.handshakes_accepted == 0
            assert site.received(PLANT) == 0


def make_foreign(site: Site) -> None:
    """The plant's keys are those of another site: another hub CA, the same names."""
    root = site.environment.layout.root
    ensure_pki(root / "foreign-ca", {PLANT: root / "foreign", ENTERPRISE: root / "foreign-hub"})
    pki = site.folder(PLANT).path
    pki.rename(root / "former")
    (root / "foreign").rename(pki)
