# SPDX-License-Identifier: Apache-2.0
"""Altered certificates on the wire: against our server, and against the hub's leaf listener (Go), all of them."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ZoneId
from appliance.brokers.config import Local
from appliance.brokers.control import ControlHub, TlsFiles
from appliance.keys.certificates import certificate_der, certificate_pem, new_session
from appliance.peer.client import ClientConfig, open_peer
from appliance.peer.server import ServerConfig, serve
from appliance.peer.tls import OwnCredential, server_credential
from tests.brokers import LIMITS, SECRETS, free_port, local, running
from tests.contracts.peer import RecordingService, make_page
from tests.mutants.certificates import Mutant, Site
from tests.pki import Registered

PLANT, HUB = ZoneId("plant-a"), ZoneId("enterprise")
LOOPBACK = "127.0.0.1"


class Stage:
    """A hub with its files, and a plant that shows what it likes."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(datetime.now(UTC), PLANT, HUB)
        self.folder = folder
        self.hub_ca, self.session = folder / "hub-ca.pem", folder / "hub.pem"
        self.authorities = folder / "authorities.pem"
        self.hub_ca.write_bytes(certificate_pem(self.site.hub.certificate))
        self.session.write_bytes(new_session(self.site.foreign, HUB, self.site.now).pem())
        self.authorities.write_bytes(
            certificate_pem(self.site.device.certificate) + certificate_pem(self.site.foreign.certificate)
        )
        zones = {PLANT: [certificate_der(self.site.device.certificate)]}
        zones[HUB] = [certificate_der(self.site.foreign.certificate)]
        self.registry = Registered(certificate_der(self.site.hub.certificate), zones)

    def context(self, mutant: Mutant) -> ssl.SSLContext | None:
        """What presents a mutant; nothing when OpenSSL cannot even load it."""
        path = self.folder / "shown.pem"
        path.write_bytes(mutant.session())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.hub_ca)
        context.set_alpn_protocols(["h2"])
        try:
            context.load_cert_chain(path)
        except ssl.SSLError:
            return None
        return context


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Made anew."""
    return Stage(tmp_path)


async def test_no_altered_certificate_makes_a_call(stage: Stage, nursery: trio.Nursery) -> None:
    """The service behind our server hears the originals alone; what is refused is counted with its reason."""
    service, config = (
        RecordingService(),
        ServerConfig(LOOPBACK, 0, lambda: server_credential(stage.session, stage.hub_ca), stage.registry),
    )
    port = await nursery.start(serve, service, config)

    async def calls(mutant: Mutant) -> bool:
        context = stage.context(mutant)
        if context is None:
            return False
        own = OwnCredential(context, 0.0, 2e11, "")
        client = ClientConfig(PLANT, HUB, LOOPBACK, port, lambda: own, stage.registry)
        async with open_peer(client) as peer:
            with trio.fail_after(10):
                try:
                    await peer.append_page(PLANT, make_page())
                except BsfgError:
                    return False
        return True

    mutants = stage.site.mutants()
    assert await calls(stage.site.original)
    assert [(one.kind, one.name) for one in mutants if await calls(one)] == []
    assert await calls(stage.site.again)
    assert len(service.calls) == config.handshakes.accepted == 2
    assert set(config.handshakes.refused) <= {"bad_certificate", "tls"}
    assert config.handshakes.refused["bad_certificate"] >= 200


FORM_ALONE = {"basic constraints", "key usage", "extended key usage", "extensions", "version"}
"""Classes that vary only how a certificate says what it says; Go minds little of it."""
LEFT_TO_THE_KEY = {
    ("names", "twice"),
    ("names", "three"),
    ("names", "own and a directory name"),
    ("names", "own and an other name"),
    ("names", "own and a registered id"),
    ("names", "trailing bytes in the list"),
    ("names", "names in the critical form"),
    *(("names", f"own and name {name!r}") for name in ("x.plant-a-bsfg", "a.b.c.plant-a-bsfg", "*.plant-a-bsfg")),
    *(("names", f"own and name {name!r}") for name in ("PLANT-A-BSFG", "Plant-A-Bsfg")),
    *(("dates", name) for name in ("an hour", "since yesterday", "a year", "to the year 9999", "since 1970")),
    *(("dates", f"{name} its issuer") for name in ("as long as", "longer than")),
    ("dates", "the end with no seconds"),
    *(("signature", name) for name in ("with SHA-384", "with SHA-512", "an algorithm with parameters")),
    *(("key type", name) for name in ("P-384", "P-521", "RSA 2048", "Ed25519")),
    *(("chain", name) for name in ("another zone's device CA", "the hub CA instead", "a stranger's root")),
    *(("chain", name) for name in ("a new certificate of the same name", "the leaf alone")),
}
"""What else Go takes. Each is signed by the zone's registered boundary key, is valid now, and names the zone: so it
opens the zone's own account, for whoever holds that key. What bounds it there is that the hub denies the box."""


def knock(stage: Stage, port: int, mutant: Mutant) -> str:
    """What the leaf listener says: ``tls``, ``-ERR …``, or ``account`` when it takes the leaf."""
    context = stage.context(mutant)
    if context is None:
        return "cannot be loaded"
    context.check_hostname = False
    try:
        with socket.create_connection((LOOPBACK, port), timeout=5) as plain, context.wrap_socket(plain) as secure:
            reader = secure.makefile("rb")
            if not reader.readline().startswith(b"INFO "):
                return "tls"
            secure.sendall(b'CONNECT {"name":"x","server_id":"x","version":"2.15.1"}\r\nPING\r\n')
            while line := reader.readline():
                if line.startswith((b"-ERR", b"PONG")):
                    return line.decode().strip()
            return "closed"
    except (ssl.SSLError, ConnectionError):
        return "tls"


async def test_the_leaf_listener_takes_none_that_is_not_the_zones_own(stage: Stage) -> None:
    """Go's verifier, over the registered device CAs; and when the box is denied it takes nothing of it any more."""
    listen, port = local(), free_port()
    tls = TlsFiles(stage.session, stage.hub_ca)
    hub = ControlHub(
        HUB, listen, stage.folder / "store", SECRETS, LIMITS, tls, LOOPBACK, port, (PLANT,), stage.authorities
    )
    async with running(stage.folder, "control", hub.render(), Local(listen.host, listen.port)) as broker:
        mutants = stage.site.mutants()

        def ask(*asked: Mutant) -> dict[tuple[str, str], str]:
            return {(one.kind, one.name): knock(stage, port, one) for one in asked}

        assert set((await trio.to_thread.run_sync(ask, stage.site.original)).values()) == {"PONG"}
        answers = await trio.to_thread.run_sync(ask, *mutants)
        taken = {which for which, answer in answers.items() if answer == "PONG"}
        unsent = {which for which, answer in answers.items() if answer == "cannot be loaded"}  # newer OpenSSL: more
        assert {which for which in taken if which[0] not in FORM_ALONE} == LEFT_TO_THE_KEY - unsent
        refusals = Counter(kind for kind, _ in answers.keys() - taken)
        assert refusals.total() >= 200
        assert {"flipped bits", "issuer", "device CA"} & {kind for kind, _ in taken} == set()
        assert "Authorization" in answers["names", "name 'x.plant-a-bsfg'"]  # a good chain, and no such user
        assert answers["names", "other"] == answers["dates", "ended a second ago"] == "tls"
        stage.authorities.write_bytes(certificate_pem(stage.site.foreign.certificate))  # the box is denied
        broker.reload()
        with trio.fail_after(10):
            while await trio.to_thread.run_sync(knock, stage, port, stage.site.original) == "PONG":  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.05)
        shown = [one for one in mutants if (one.kind, one.name) in taken]
        assert set((await trio.to_thread.run_sync(ask, *shown)).values()) == {"tls"}
        stage.authorities.write_bytes(certificate_pem(stage.site.device.certificate))
        broker.reload()
        with trio.fail_after(10):
            while await trio.to_thread.run_sync(knock, stage, port, stage.site.original) != "PONG":  # noqa: ASYNC110 - nothing announces it
                await trio.sleep(0.05)
        assert set((await trio.to_thread.run_sync(ask, stage.site.again)).values()) == {"PONG"}
