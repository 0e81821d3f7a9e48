# SPDX-License-Identifier: Apache-2.0
"""Hundreds of altered certificates against our verifier and against OpenSSL in our contexts: none gets through.

Both directions: as the certificate of a caller, which a server judges, and as that of a hub, which a caller judges.
"""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId, identity_of
from appliance.keys.certificates import certificate_der, certificate_pem, check_device_ca, new_session
from appliance.peer.handshakes import HandshakeCounts
from appliance.peer.proof import Prover
from appliance.peer.tls import client_credential, server_credential
from tests.mutants.certificates import Mutant, Site
from tests.pki import Registered

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
LOAD, TLS, IDENTITY = "cannot be loaded", "TLS", "identity"


@dataclass
class Court:
    """One side that judges, and a site whose zone is accused."""

    site: Site
    folder: Path
    serves: bool
    """Whether the judge is a server, so that the accused calls."""

    def __post_init__(self) -> None:
        self.hub_file = self.folder / "hub-ca.pem"
        self.hub_file.write_bytes(certificate_pem(self.site.hub.certificate))
        own = self.folder / "own.pem"
        own.write_bytes(new_session(self.site.foreign, self.site.other, self.site.now).pem())
        make = server_credential if self.serves else client_credential
        self.own = make(own, self.hub_file)
        zones = {
            self.site.zone: [certificate_der(self.site.device.certificate)],
            self.site.other: [certificate_der(self.site.foreign.certificate)],
        }
        self.registry = Registered(certificate_der(self.site.hub.certificate), zones)
        self.counts = HandshakeCounts()

    def verdict(self, mutant: Mutant) -> str:
        """Which layer refuses; empty: none does."""
        path = self.folder / "accused.pem"
        path.write_bytes(mutant.session())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if self.serves else ssl.PROTOCOL_TLS_SERVER)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        try:
            context.load_cert_chain(path)
        except ssl.SSLError:
            return LOAD  # the accused has no stack that would present it, so it is shown to the verifier alone
        client, server = (context, self.own.context) if self.serves else (self.own.context, context)
        name = identity_of(self.site.other if self.serves else self.site.zone)
        try:
            shown = handshake(server, client, name, judge_serves=self.serves)
        except ssl.SSLError:
            return TLS
        return "" if self.proves(shown) else IDENTITY

    def proves(self, certificate: bytes) -> bool:
        """What our verifier says, as connections ask it."""
        prover = Prover(self.registry, self.site.now.timestamp, self.own.ends_at, self.counts)
        try:
            prover.prove(certificate, expected=self.site.zone)
        except DeniedError:
            return False
        return True


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str, *, judge_serves: bool) -> bytes:
    """Shake hands in memory; the certificate that the judge saw. :raises ssl.SSLError: either side refuses."""
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(upward, downward, server_side=True)
    calling = client.wrap_bio(downward, upward, server_hostname=name)
    for _ in range(3):
        for side in (calling, serving):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    judge = serving if judge_serves else calling
    return judge.getpeercert(True) or b""


@pytest.fixture(scope="module", params=["a caller", "a hub"])
def court(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Court:
    """A server that judges callers, or a caller that judges the hub."""
    serves = request.param == "a caller"
    zones = (PLANT, HUB) if serves else (HUB, PLANT)
    return Court(Site(datetime.now(UTC), *zones), tmp_path_factory.mktemp("court"), serves)


def test_no_altered_certificate_is_accepted(court: Court) -> None:
    """Each distinct presentation is refused by one layer or another; the originals, in the same run, by none."""
    mutants = court.site.mutants()
    originals = [court.site.original, court.site.again]
    assert [court.verdict(one) for one in originals] == ["", ""]
    verdicts = {(mutant.kind, mutant.name): court.verdict(mutant) for mutant in mutants}
    assert [which for which, verdict in verdicts.items() if not verdict] == []
    distinct = {(mutant.chain, id(mutant.key)) for mutant in mutants}
    assert len(distinct) == len(verdicts) == len(mutants) >= 200
    assert [court.verdict(one) for one in originals] == ["", ""]
    layers = Counter(verdicts.values())
    assert min(layers[layer] for layer in (LOAD, TLS, IDENTITY)) >= 5, layers
    assert court.counts.accepted == 4
    assert set(court.counts.refused) == {"bad_certificate"}


NEEDS_TLS = {
    ("key type", "another's key"),
    ("chain", "another zone's device CA"),
    ("chain", "the hub CA instead"),
    ("chain", "a stranger's root"),
    ("chain", "a new certificate of the same name"),
    ("chain", "the leaf alone"),
}
"""Good session certificates, presented without their key or their chain: the verifier sees the certificate alone."""


def test_our_verifier_refuses_them_by_itself(court: Court) -> None:
    """Also what no stack of ours could present; nothing but a proof of possession is left to TLS."""
    assert court.proves(court.site.original.leaf)
    assert court.proves(court.site.again.leaf)
    accepted = {(mutant.kind, mutant.name) for mutant in court.site.mutants() if court.proves(mutant.leaf)}
    assert accepted == NEEDS_TLS


def test_no_device_ca_that_was_signed_by_mistake_is_registered(court: Court) -> None:
    """The registry refuses each of them, so that none of their sessions is asked about at all."""
    site = court.site
    check_device_ca(site.hub.certificate, site.zone, site.device.certificate)
    registered = []
    for name, parts, _ in site.device_ca_parts():
        try:
            certificate = parts.der()
            check_device_ca(site.hub.certificate, site.zone, load(certificate))
        except (DeniedError, ValueError):
            continue
        registered.append(name)
    assert registered == []
    with pytest.raises(DeniedError):
        check_device_ca(site.hub.certificate, site.other, site.device.certificate)


def load(der: bytes) -> x509.Certificate:
    """A certificate."""
    return x509.load_der_x509_certificate(der)


def test_what_is_left_to_openssl_is_refused_by_stock_openssl_too(court: Court) -> None:
    """Without our flags OpenSSL refuses a name outside the constraint; what it accepts, our verifier refuses."""
    stock = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if court.serves else ssl.PROTOCOL_TLS_CLIENT)
    stock.verify_mode = ssl.CERT_REQUIRED
    stock.load_verify_locations(court.hub_file)
    stock.load_cert_chain(court.folder / "own.pem")
    ours, court.own = court.own, type(court.own)(stock, court.own.begins_at, court.own.ends_at, court.own.serial)
    try:
        verdicts = {(mutant.kind, mutant.name): court.verdict(mutant) for mutant in court.site.mutants()}
    finally:
        court.own = ours
    assert "" not in verdicts.values()
    assert verdicts["names", "other"] == verdicts["names", "own and other"] == TLS
    assert verdicts["dates", "ended a second ago"] == TLS
    assert verdicts["issuer", "a CA below the device CA"] == TLS
    # These it lets pass: a name below the constrained one, and a session for years.
    if court.serves:
        assert verdicts["names", f"name 'x.{identity_of(court.site.zone)}'"] == IDENTITY
    assert verdicts["dates", "a year"] == IDENTITY
