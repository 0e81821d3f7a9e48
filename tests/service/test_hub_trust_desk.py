# SPDX-License-Identifier: Apache-2.0
"""The hub's desk: a box enrols, attests and is let in, all through one listener. The TPM is simulated, TLS is real."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.hub.trust_desk import TrustDesk
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.certificates import Authority, certificate_der, new_session
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.documents import Grant
from appliance.node.config import Attestation, Endpoint, OfficeConfig
from appliance.peer.trust_client import TrustClient, trust_client_context
from tests.attesting import measurements
from tests.boxes import HUB, PLANT, SimulatedBox, SimulatedKeeper, Site
from tests.tpm import free_pair

LOOPBACK = "127.0.0.1"


@dataclass
class Keys:
    """What the desk needs of a node's keys: a boundary key in software, and who is registered."""

    boundary: Authority
    looks: int = 0

    @property
    def port(self) -> Any:
        """The keys port."""
        return self

    @property
    def standing(self) -> Any:
        """Always ready."""
        registry = SimpleNamespace(zones=lambda: [HUB, PLANT], look=self._look)
        return SimpleNamespace(ready=trio.lowlevel.checkpoint, registry=registry)

    async def _look(self) -> None:
        self.looks += 1

    async def sign(self, statement: bytes) -> Signature:
        """The boundary key."""
        value = self.boundary.key.sign(statement, ec.ECDSA(hashes.SHA256()))
        return Signature(value, certificate_der(self.boundary.certificate))


@dataclass
class World:
    """A desk, and a client of it."""

    desk: TrustDesk
    site: Site
    client: TrustClient
    keys: Keys

    async def enrol(self, box: SimulatedBox) -> Any:
        """The dialogue through the network; an operator has approved the box."""
        self.site.office.approve(box.fingerprint, box.zone)
        keeper: Any = SimulatedKeeper(box)
        return await boxside.enrol(keeper, self.client.enrol, box.zone, self.site.box_folder(box.zone))

    async def attest(self, box: SimulatedBox, release: bytes = b"") -> tuple[bool, tuple[str, ...]]:
        """Once, now."""
        nonce = await self.client.begin_attestation(box.zone)
        certified = replace(await box.certify(nonce), release=release)
        shown = Evidence.of(box.zone, await box.quote_over(nonce), certified)
        return await self.show(shown)

    async def show(self, shown: Evidence) -> tuple[bool, tuple[str, ...]]:
        """Show the hub something."""
        answer = await self.client.attest(shown.zone, shown.render())
        return answer.accepted, answer.findings

    async def known(self, zone: ZoneId, state: str) -> None:
        """Wait until the desk has seen what the office decided."""
        with trio.fail_after(5):
            while self.desk.state(zone) != state:  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.05)


@asynccontextmanager
async def world(folder: Path, attestation: Attestation) -> AsyncIterator[World]:
    """A hub with an office, listening."""
    site = Site(folder).init()
    own = await site.own()
    keys: Any = Keys(Authority(own.boundary, x509.load_der_x509_certificate(own.installed)))
    ca_file, session = site.box_folder(HUB).hub_ca, folder / "session.pem"
    session.write_bytes(new_session(keys.boundary, HUB, datetime.now(UTC)).pem())
    port = free_pair()
    desk = TrustDesk(HUB, Endpoint(LOOPBACK, port), OfficeConfig(site.office_folder, attestation), session, keys)
    client = TrustClient(HUB, LOOPBACK, port, partial(trust_client_context, ca_file))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desk.run)
        with trio.fail_after(5):
            while True:
                try:
                    await (await trio.open_tcp_stream(LOOPBACK, port)).aclose()
                    break
                except OSError:
                    await trio.sleep(0.02)
        yield World(desk, site, client, keys)
        nursery.cancel_scope.cancel()


def refusal(desk: TrustDesk, zone: ZoneId = PLANT) -> Reason | None:
    """Why a zone may not call."""
    error = desk.refusal(zone)
    return None if error is None else error.reason


@pytest.mark.parametrize("attestation", list(Attestation))
async def test_a_box_is_let_in_as_long_as_it_attests(tmp_path: Path, attestation: Attestation) -> None:
    """A hub that only observes lets it in all the same, and says the same."""
    required = attestation is Attestation.REQUIRED
    async with world(tmp_path, attestation) as it:
        box = SimulatedBox()
        it.site.office.folder.measurements.write_bytes(measurements(box).render())
        assert isinstance(await it.enrol(box), Grant)
        assert it.keys.looks > 0  # the box dials at once, and must be known by then
        await it.known(PLANT, "stale")
        assert refusal(it.desk) is (Reason.ATTESTATION_STALE if required else None)
        assert await it.attest(box) == (True, ())
        assert (it.desk.state(PLANT), refusal(it.desk), list(it.desk.problems())) == ("fresh", None, [])
        box.extend(7, bytes(32))
        accepted, findings = await it.attest(box)
        assert not accepted
        assert "PCR 7" in findings[0]
        assert it.desk.state(PLANT) == "failed"
        assert refusal(it.desk) is (Reason.ATTESTATION_FAILED if required else None)
        assert [(where, error.reason) for where, error in it.desk.problems()] == [
            ("attestation of plant-a", Reason.ATTESTATION_FAILED)
        ]


async def test_measurements_that_cannot_be_taken_are_told(tmp_path: Path) -> None:
    """And nothing is compared with them."""
    async with world(tmp_path, Attestation.REQUIRED) as it:
        box = SimulatedBox()
        await it.enrol(box)
        await it.known(PLANT, "stale")
        it.site.office.folder.measurements.write_bytes(b"{}\n")
        accepted, findings = await it.attest(box)
        assert accepted
        assert "no reference measurements" in findings[0]
        assert [(where, error.reason) for where, error in it.desk.problems()] == [("measurements", Reason.BAD_DOCUMENT)]
