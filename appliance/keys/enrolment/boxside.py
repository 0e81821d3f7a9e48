# SPDX-License-Identifier: Apache-2.0
"""The box's side of enrolment: ask, prove, and take what is granted. The keeper does all that needs the TPM.

A box is given the hub CA's certificate beforehand, and believes no other. Each step may be done again: a box that runs
the whole dialogue anew gets the same grant, or the next state of it.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from cryptography import x509

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.quote import one_form
from appliance.keys.certificates import certificate_der, certificate_pem
from appliance.keys.denied import deny, parse_denied, read_denied
from appliance.keys.enrolment import csr
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.documents import (
    NONCE_BYTES,
    Challenge,
    EnrolRequest,
    Grant,
    Pending,
    Proof,
    Refusal,
    digest_of,
    parse_answer,
)
from appliance.keys.files import PUBLIC, locked, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import KeeperPort
from appliance.keys.registry import Registry
from appliance.keys.tpm.public import Attestation


@dataclass(frozen=True, slots=True)
class Papers:
    """What a box may bring along. :param voucher, release: documents, or empty."""

    voucher: bytes = b""
    release: bytes = b""


async def ask(keeper: KeeperPort, zone: ZoneId, papers: Papers | None = None) -> bytes:
    """The request. Nothing of it needs a hub, and nothing changes on the box.

    :raises BsfgError: what the keeper raises.
    """
    papers = papers or Papers()
    box = await keeper.describe()
    request = EnrolRequest(
        zone,
        box.ek_certificate,
        box.ek_public,
        box.ak_public,
        box.boundary_public,
        BirthPolicy.parse(box.policy),
        csr.in_one_form(await keeper.certificate_request()),
        secrets.token_bytes(NONCE_BYTES),
        papers.voucher,
        papers.release,
    )
    return request.render()


async def prove(keeper: KeeperPort, request: bytes, challenge: Challenge) -> bytes:
    """The proof that answers a challenge.

    :raises DeniedError: ``bad_document``: the challenge is not about this request; ``tpm_refused``: it is for another
        TPM.
    """
    if challenge.request != digest_of(request):
        raise DeniedError(Reason.BAD_DOCUMENT, "the challenge answers another request than this one")
    zone = EnrolRequest.parse(request).zone
    secret = await keeper.activate(challenge.credential, challenge.seed)
    certified = await keeper.certify(challenge.nonce)
    quote = await keeper.quote(challenge.nonce)
    evidence = Evidence.of(zone, quote)
    return Proof(
        request, challenge.token, secret, _in_one_form(certified.key), _in_one_form(certified.counter), evidence
    ).render()


async def take(keeper: KeeperPort, grant: Grant, zone: ZoneId, folder: PkiFolder) -> None:
    """Take a grant: write what the other side's connections are checked against, then let the keeper issue sessions.

    :param folder: has the hub CA's certificate already. May be killed anywhere and called again.
    :raises DeniedError: ``bad_certificate``: it is for another zone, or not signed by the hub CA this box was given.
    """
    registry = check_grant(grant, zone, read_hub_ca(folder))
    await trio.to_thread.run_sync(write_registry, registry, folder)
    await keeper.install(grant.device_ca)


def write_registry(registry: Registry, folder: PkiFolder) -> None:
    """Write the zones of a registry and its denials into a node's folder; other zones there stay. Blocking."""
    with locked(folder.path):
        folder.zones.mkdir(mode=0o755, exist_ok=True)
        for zone, certificates in registry.device_cas.items():
            text = b"".join(map(certificate_pem, certificates))
            if not folder.zone(zone).is_file() or folder.zone(zone).read_bytes() != text:
                write_atomically(folder.zone(zone), text, PUBLIC)
    known = {denial.certificate for denial in read_denied(folder.denied)}
    if new := [denial for denial in registry.denied if denial.certificate not in known]:
        deny(folder.denied, *new)


def check_grant(grant: Grant, zone: ZoneId, hub_ca: x509.Certificate) -> Registry:
    """What a grant says, if the hub CA says so too. :raises DeniedError: ``bad_certificate``: it does not."""
    if grant.zone != zone or grant.hub_ca != certificate_der(hub_ca):
        raise DeniedError(Reason.BAD_CERTIFICATE, "the grant is for another zone, or of another hub than this box's")
    try:
        zones = {each: tuple(map(x509.load_der_x509_certificate, ders)) for each, ders in grant.zones.items()}
        registry = Registry(hub_ca, zones, parse_denied(grant.denied) if grant.denied else ())
    except (ValueError, RefusedError, x509.InvalidVersion) as error:
        raise DeniedError(Reason.BAD_CERTIFICATE, f"the grant: {error}") from error
    own = grant.device_ca
    if not registry.is_boundary_key(zone, own) or registry.denial(own) or grant.hub not in registry.device_cas:
        raise DeniedError(Reason.BAD_CERTIFICATE, "the grant does not register this box and the hub")
    return registry


def read_hub_ca(folder: PkiFolder) -> x509.Certificate:
    """The hub CA's certificate that this box was given. :raises RefusedError: ``bad_input``: it is not there."""
    try:
        return x509.load_pem_x509_certificate(folder.hub_ca.read_bytes())
    except (OSError, ValueError, x509.InvalidVersion) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{folder.hub_ca}: {error}") from error


async def step(keeper: KeeperPort, request: bytes, answer: bytes) -> bytes | Grant | Pending:
    """What follows a hub's answer: a proof to be carried to it, or the end.

    :raises DeniedError: the hub's reason, if it refused.
    """
    found = parse_answer(answer)
    match found:
        case Refusal():
            raise found.error()
        case Challenge():
            return await prove(keeper, request, found)
        case _:
            return found


async def enrol(
    keeper: KeeperPort,
    send: Callable[[bytes], Awaitable[bytes]],
    zone: ZoneId,
    folder: PkiFolder,
    papers: Papers | None = None,
) -> Grant | Pending:
    """The whole dialogue through a network.

    :param send: carries a document to the hub and brings its answer (``TrustPort.enrol``).
    :raises DeniedError: the hub's reason, if it refused; see :func:`take`.
    """
    read_hub_ca(folder)
    request = await ask(keeper, zone, papers)
    proof = await step(keeper, request, await send(request))
    if not isinstance(proof, bytes):
        raise DeniedError(Reason.BAD_DOCUMENT, "the hub answered a request with something else than a challenge")
    outcome = await step(keeper, request, await send(proof))
    if isinstance(outcome, bytes):
        raise DeniedError(Reason.BAD_DOCUMENT, "the hub answered a proof with another challenge")
    if isinstance(outcome, Grant):
        await take(keeper, outcome, zone, folder)
    return outcome


def _in_one_form(told: Attestation) -> Attestation:
    try:
        return Attestation(told.statement, one_form(told.signature))
    except ValueError as error:
        raise BsfgError(Reason.TPM_FAULT, f"the keeper's answer has no signature: {error}") from error
