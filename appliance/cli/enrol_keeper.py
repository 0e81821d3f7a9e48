# SPDX-License-Identifier: Apache-2.0
"""What ``bsfg enrol`` and ``bsfg hub init`` do with a keeper."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.documents import EnrolRequest, Grant, Pending
from appliance.keys.enrolment.hubside import NETWORK_VALIDITY_MS
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.port import KeeperStatus
from appliance.keys.tpm.endorsement import fingerprint_of
from appliance.peer.trust_client import TrustClient, trust_client_context

REQUEST_FILE = "enrol-request.json"
"""In the box's folder of certificates: the request that a challenge on a stick will be about."""
PAUSE_S = 10.0
"""Between two attempts while a person has yet to decide."""


async def enrol_with_office(office: EnrolmentOffice, socket: Path) -> str:
    """Enrol the hub's own zone at its own office. :raises BsfgError: as the office and the keeper say."""
    keeper = KeeperClient(socket)
    zone = (await keeper.status()).zone
    if zone != office.config.zone:
        raise RefusedError(Reason.BAD_INPUT, f"that keeper is zone {zone}'s, not the hub's")
    fingerprint = fingerprint_of((await keeper.describe()).ek_public)
    if await trio.to_thread.run_sync(office.of_zone, zone) is None:
        await trio.to_thread.run_sync(office.approve, fingerprint, zone)

    async def send(document: bytes) -> bytes:
        return await trio.to_thread.run_sync(office.answer, document, NETWORK_VALIDITY_MS)

    outcome = await boxside.enrol(keeper, send, zone, office.config.pki)
    return "enrolled" if isinstance(outcome, Grant) else f"waits for {outcome.waits}"


async def fingerprint(socket: Path) -> tuple[str, bool]:
    """The TPM's fingerprint, and whether it has a certificate of its vendor."""
    box = await KeeperClient(socket).describe()
    return fingerprint_of(box.ek_public), bool(box.ek_certificate)


async def request(socket: Path, papers: boxside.Papers) -> tuple[EnrolRequest, bytes]:
    """A request, and its document."""
    keeper = KeeperClient(socket)
    document = await boxside.ask(keeper, (await keeper.status()).zone, papers)
    return EnrolRequest.parse(document), document


async def answer(socket: Path, pki: PkiFolder, asked: bytes, document: bytes) -> bytes | Grant | Pending:
    """What follows from the hub's answer; a grant is taken."""
    keeper = KeeperClient(socket)
    outcome = await boxside.step(keeper, asked, document)
    if isinstance(outcome, Grant):
        await boxside.take(keeper, outcome, (await keeper.status()).zone, pki)
    return outcome


async def status(socket: Path) -> KeeperStatus:
    """The keeper's."""
    return await KeeperClient(socket).status()


async def run(
    socket: Path,
    pki: PkiFolder,
    hub: tuple[ZoneId, str, int],
    papers: boxside.Papers,
    wait_s: float,
    say: Callable[[Pending | BsfgError], None],
) -> Grant | Pending:
    """The dialogue through the network, again and again until it is decided or the time is over.

    :raises BsfgError: the hub refused, or cannot be reached in time.
    """
    keeper = KeeperClient(socket)
    zone = (await keeper.status()).zone
    client = TrustClient(*hub, lambda: trust_client_context(pki.hub_ca))
    end = trio.current_time() + wait_s
    while True:
        outcome = await _try(lambda: boxside.enrol(keeper, client.enrol, zone, pki, papers))
        if isinstance(outcome, Grant):
            return outcome
        if trio.current_time() + PAUSE_S > end:
            if isinstance(outcome, BsfgError):
                raise outcome
            return outcome
        say(outcome)
        await trio.sleep(PAUSE_S)


async def _try(attempt: Callable[[], Awaitable[Grant | Pending]]) -> Grant | Pending | BsfgError:
    """An attempt's outcome; what may be better next time is one too."""
    try:
        return await attempt()
    except UnavailableError as error:
        return error
