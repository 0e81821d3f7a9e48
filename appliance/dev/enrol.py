# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.dev.enrol --dir D --zone Z``: enrol a zone's box, unless it is enrolled; then it ends.

The dialogue is the product's own, with nothing left out: the hub checks the certificate of the TPM (of a *simulated*
vendor), challenges the TPM, and checks what its attestation key certifies. What people would do is done here: the
environment's first operator signs a voucher for the plant, and approves the hub's own box at the hub's own office.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, UnavailableError, first_error
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.dev.environment import Environment, PortName
from appliance.dev.keeping import keeper_of
from appliance.dev.layout import ENTERPRISE, HOST
from appliance.dev.offline import OPERATORS, Offline
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.documents import Grant
from appliance.keys.enrolment.voucher import new_voucher
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import KeeperPort, KeeperState
from appliance.keys.tpm.endorsement import fingerprint_of
from appliance.peer.trust_client import TrustClient, trust_client_context

PATIENCE_S: Final = 60.0
"""How long to try: keeper and hub may just be starting, or be started again."""
VOUCHER_S: Final = 3600
_AGAIN_S: Final = 0.2
_NOT_YET: Final = frozenset((KeeperState.NOT_PROVISIONED, KeeperState.TPM_ABSENT, KeeperState.TPM_BUSY))

_log = logging.getLogger("appliance.dev.enrol")


def main() -> None:
    """Enrol; errors end with reason and hint."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--zone", type=parse_zone, required=True)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    failed: BsfgError | None = None
    try:
        trio.run(ensure_enrolled, Environment.load(arguments.dir), arguments.zone)
    except* BsfgError as errors:
        failed = first_error(errors)
    if failed is not None:  # not in the clause above: what is raised there comes out as a group, SystemExit too
        _log.error("%s; %s", failed, failed.hint)
        sys.exit(failed.text.exit)


async def ensure_enrolled(environment: Environment, zone: ZoneId) -> None:
    """Return when the zone's box is enrolled.

    :raises UnavailableError: keeper or hub cannot be reached in time. :raises DeniedError: the hub's reason.
    """
    keeper = keeper_of(environment, zone)
    with trio.move_on_after(PATIENCE_S):
        while (state := await _state(keeper)) is None or state in _NOT_YET:  # noqa: ASYNC110 - nobody tells
            await trio.sleep(_AGAIN_S)
        if state is not KeeperState.NOT_ENROLLED:
            _log.info("%s is enrolled; its keeper is %s", zone, state)
            return
        while True:
            try:
                await _enrol(environment, zone, keeper)
            except UnavailableError as error:
                _log.info("%s: %s", zone, error)
                await trio.sleep(_AGAIN_S)
            else:
                _log.info("%s was enrolled", zone)
                return
    raise UnavailableError(Reason.NOT_ENROLLED, f"{zone} could not be enrolled within {PATIENCE_S:g} s")


async def _state(keeper: KeeperPort) -> KeeperState | None:
    try:
        return (await keeper.status()).state
    except UnavailableError:
        return None


async def _enrol(environment: Environment, zone: ZoneId, keeper: KeeperPort) -> None:
    fingerprint = fingerprint_of((await keeper.describe()).ek_public)
    if zone == ENTERPRISE:
        send, papers = await _approved(environment, fingerprint), boxside.Papers()
    else:
        send, papers = _through_the_link(environment, zone), boxside.Papers(_voucher(environment, zone, fingerprint))
    outcome = await boxside.enrol(keeper, send, zone, PkiFolder(environment.layout.zone(zone).pki), papers)
    if not isinstance(outcome, Grant):
        raise UnavailableError(Reason.NOT_ENROLLED, f"the hub waits for {outcome.waits}")


def _voucher(environment: Environment, zone: ZoneId, fingerprint: str) -> bytes:
    """What the first operator signs for this TPM."""
    operator = Offline(environment.layout.offline).operator(OPERATORS[0])
    expires_unix_ms = int((time.time() + VOUCHER_S) * 1000)
    return new_voucher(operator, zone, fingerprint, expires_unix_ms).render()


def _through_the_link(environment: Environment, zone: ZoneId) -> Callable[[bytes], Awaitable[bytes]]:
    """The hub's trust service, as a box that has no certificate yet reaches it."""
    hub_ca = PkiFolder(environment.layout.zone(zone).pki).hub_ca
    port = environment.ports[PortName.LINK_TRUST]
    return TrustClient(ENTERPRISE, HOST, port, lambda: trust_client_context(hub_ca)).enrol


async def _approved(environment: Environment, fingerprint: str) -> Callable[[bytes], Awaitable[bytes]]:
    """The hub's own office, at which its own box is approved: there is no hub yet that could be dialled."""
    folder = environment.layout.zone(ENTERPRISE).office
    office = await trio.to_thread.run_sync(EnrolmentOffice, folder)
    if await trio.to_thread.run_sync(office.of_zone, ENTERPRISE) is None:
        await trio.to_thread.run_sync(office.approve, fingerprint, ENTERPRISE)

    async def send(document: bytes) -> bytes:
        return await trio.to_thread.run_sync(office.answer, document)

    return send


if __name__ == "__main__":
    main()
