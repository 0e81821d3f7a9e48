# SPDX-License-Identifier: Apache-2.0
"""The hub's side of enrolment: challenge a box, and check all that it proves. Pure, and on ``cryptography`` alone.

What is proven at the end: the TPM is a known vendor's; the attestation key is in it; the boundary key is in the same
TPM, made there, and opens under this site's operators, image key and the PCRs of its birth, at the counter of its
birth; and it asks for its own certificate. Whether this box may be that zone is decided elsewhere (``rules``).

A hub keeps nothing of a challenge: what it must know again travels with the box, encrypted under the hub's own key.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.attestation.verdict import Expected, judge
from appliance.keys.enrolment.attested import AttestedKind, certified_name, certified_number, open_attestation
from appliance.keys.enrolment.credential import SECRET_BYTES, make_credential
from appliance.keys.enrolment.csr import check_request
from appliance.keys.enrolment.documents import NONCE_BYTES, Challenge, EnrolRequest, Proof, digest_of
from appliance.keys.enrolment.vendors import TpmVendors
from appliance.keys.release import Release, verify
from appliance.keys.tpm.endorsement import endorsement_key, spki
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, counter_public
from appliance.keys.tpm.public import ATTESTATION, attributes_of, name_of, p256_key

NETWORK_VALIDITY_MS: Final = 10 * 60 * 1000
"""How long a challenge can be answered through the network."""
FILE_VALIDITY_MS: Final = 14 * 24 * 3600 * 1000
"""How long a challenge can be answered on a stick."""
TOKEN_KEY_BYTES: Final = 32
_TOKEN: Final = struct.Struct(f">Q{NONCE_BYTES}s{SECRET_BYTES}s")
_AES_NONCE: Final = 12


@dataclass(frozen=True, slots=True)
class SiteDemands:
    """What this site demands of every box.

    :param operators: the release operators; each operator of a box must be one of them.
    :param image_keys: image builders' keys that may open a boundary key.
    :param measurements: the published images; ``None``: the image is not compared.
    """

    vendors: TpmVendors
    operators: tuple[ec.EllipticCurvePublicKey, ...]
    image_keys: tuple[rsa.RSAPublicKey, ...]
    measurements: Measurements | None = None


@dataclass(frozen=True, slots=True)
class ProvenBox:
    """What a hub knows of a box after its proof.

    :param vendor: whose TPM it is. :param counter: the quarantine counter, certified. :param pcrs: as quoted.
    :param reset_count: of the TPM. :param released: the release that explains a counter other than that of birth.
    """

    request: EnrolRequest
    vendor: str
    counter: int
    pcrs: Mapping[int, bytes]
    reset_count: int
    released: Release | None = None

    @property
    def zone(self) -> ZoneId:
        """The zone it wants to be."""
        return self.request.zone

    @property
    def fingerprint(self) -> str:
        """Which TPM it is."""
        return self.request.fingerprint

    @property
    def boundary_key(self) -> ec.EllipticCurvePublicKey:
        """The key that is to be certified."""
        return p256_key(self.request.boundary_public)


def challenge(
    request: EnrolRequest, document: bytes, hub: ZoneId, key: bytes, unix_ms: int, validity_ms: int
) -> Challenge:
    """Challenge a box; only the TPM it names can answer, and only with the attestation key it names.

    :param document: the request as it came. :param key: the hub's own, 32 random bytes, for tokens.
    :raises DeniedError: ``ek_mismatch``, ``bad_proof``: it names no endorsement key or no attestation key.
    """
    try:
        endorsement = endorsement_key(request.ek_public)
    except RefusedError as error:
        raise DeniedError(Reason.EK_MISMATCH, error.detail) from error
    _check_attestation_key(request)
    secret, nonce = secrets.token_bytes(SECRET_BYTES), secrets.token_bytes(NONCE_BYTES)
    made = make_credential(endorsement, name_of(request.ak_public), secret)
    expires = unix_ms + validity_ms
    start = secrets.token_bytes(_AES_NONCE)
    token = start + AESGCM(key).encrypt(start, _TOKEN.pack(expires, nonce, secret), digest_of(document))
    return Challenge(request.zone, hub, digest_of(document), token, made.blob, made.seed, nonce, expires)


def check_proof(proof: Proof, site: SiteDemands, key: bytes, unix_ms: int) -> ProvenBox:
    """Check everything a box proves. :param key: as in :func:`challenge`.

    :raises RefusedError: ``bad_document``.
    :raises DeniedError: ``challenge_expired``; ``ek_uncertified``, ``ek_mismatch``, ``ek_unknown_vendor``;
        ``bad_proof``; ``bad_evidence``; ``bad_release``; ``box_quarantined``.
    """
    request = EnrolRequest.parse(proof.request)
    nonce = _open_token(proof, key, unix_ms)
    vendor = site.vendors.check(request.ek_certificate, request.ek_public)
    attestation_key = _check_attestation_key(request)
    _check_boundary_key(request, site)
    check_request(request.csr, request.zone, p256_key(request.boundary_public))
    body = open_attestation(attestation_key, AttestedKind.CERTIFY, nonce, proof.key)
    if certified_name(body) != name_of(request.boundary_public):
        raise DeniedError(Reason.BAD_PROOF, "the TPM certified another key than the boundary key")
    body = open_attestation(attestation_key, AttestedKind.NV, nonce, proof.counter)
    counter = certified_number(body, counter_public().written())
    released = _check_state(request, counter, proof.evidence.pcrs)
    reset_count = _check_evidence(request, proof, site, nonce, unix_ms, released)
    return ProvenBox(request, vendor, counter, dict(proof.evidence.pcrs), reset_count, released)


def read_release(data: bytes, policy: BoundaryPolicy, counter: int) -> Release:
    """A release that two operators signed for a box of this policy, and for this counter.

    :raises DeniedError: ``bad_release``: it is none.
    """
    try:
        release = Release.parse(data)
    except RefusedError as error:
        raise DeniedError(Reason.BAD_RELEASE, error.detail) from error
    verify(policy, release)
    if release.counter != counter:
        raise DeniedError(Reason.BAD_RELEASE, f"for counter {release.counter}; the box stands at {counter}")
    return release


def _open_token(proof: Proof, key: bytes, unix_ms: int) -> bytes:
    """The nonce of the challenge that this proof answers. :raises DeniedError: ``challenge_expired``, ``bad_proof``."""
    start, sealed = proof.token[:_AES_NONCE], proof.token[_AES_NONCE:]
    try:
        values = AESGCM(key).decrypt(start, sealed, digest_of(proof.request))
    except (InvalidTag, ValueError) as error:
        raise DeniedError(Reason.CHALLENGE_EXPIRED, "this hub never asked that, or not about this request") from error
    expires, nonce, secret = _TOKEN.unpack(values)
    if unix_ms >= expires:
        raise DeniedError(Reason.CHALLENGE_EXPIRED, "too late")
    if not hmac.compare_digest(proof.secret, secret):
        raise DeniedError(Reason.BAD_PROOF, "the TPM did not open the challenge: it is another one than it says")
    return bytes(nonce)


def _check_attestation_key(request: EnrolRequest) -> ec.EllipticCurvePublicKey:
    """It signs only what the TPM states, and was made in the TPM. :raises DeniedError: ``bad_proof``."""
    try:
        if attributes_of(request.ak_public) != (ATTESTATION, b""):
            raise DeniedError(Reason.BAD_PROOF, "the attestation key has not the attributes of one")
        return p256_key(request.ak_public)
    except RefusedError as error:
        raise DeniedError(Reason.BAD_PROOF, f"the attestation key: {error.detail}") from error


def _check_boundary_key(request: EnrolRequest, site: SiteDemands) -> None:
    """Its attributes and policy, and that the policy is this site's. :raises DeniedError: ``bad_proof``."""
    try:
        if not request.policy.is_of(request.boundary_public):
            raise DeniedError(Reason.BAD_PROOF, "the boundary key has not the attributes or the policy that it must")
        p256_key(request.boundary_public)
    except RefusedError as error:
        raise DeniedError(Reason.BAD_PROOF, f"the boundary key: {error.detail}") from error
    policy = request.policy.policy
    known = {spki(operator) for operator in site.operators}
    if any(spki(operator) not in known for operator in policy.operators.keys):
        raise DeniedError(Reason.BAD_PROOF, "the box can be released by operators who are not this site's")
    if spki(policy.image_key) not in {spki(image_key) for image_key in site.image_keys}:
        raise DeniedError(Reason.BAD_PROOF, "the box runs images of a builder who is not this site's")


def _check_state(request: EnrolRequest, counter: int, pcrs: Mapping[int, bytes]) -> Release | None:
    """Counter and bound PCRs are those of birth, or those of a release.

    :raises DeniedError: ``box_quarantined``, ``bad_proof``, ``bad_release``.
    """
    birth = request.policy
    bound = {pcr: pcrs.get(pcr) for pcr in BOUND_PCRS}
    if counter == birth.counter and bound == birth.pcrs:
        return None
    if not request.release:
        if counter != birth.counter:
            raise DeniedError(Reason.BOX_QUARANTINED, f"counter {counter}, at the key's birth {birth.counter}")
        changed = [str(pcr) for pcr in BOUND_PCRS if bound[pcr] != birth.pcrs[pcr]]
        raise DeniedError(Reason.BAD_PROOF, f"changed since the boundary key was made: PCR {', '.join(changed)}")
    release = read_release(request.release, birth.policy, counter)
    if bound != dict(release.pcrs):
        raise DeniedError(Reason.BAD_RELEASE, "the box has other PCRs than those it was released with")
    return release


def _check_evidence(
    request: EnrolRequest, proof: Proof, site: SiteDemands, nonce: bytes, unix_ms: int, released: Release | None
) -> int:
    """The quote, the logs and the image; answers the TPM's reset count.

    :raises DeniedError: ``bad_evidence``, ``bad_proof``.
    """
    if proof.evidence.zone != request.zone:
        raise DeniedError(Reason.BAD_PROOF, "the quote is said to be of another zone")
    bound = dict(released.pcrs if released is not None else request.policy.pcrs)
    enrolled = EnrolledAttestation(request.ak_public, {**proof.evidence.pcrs, **bound}, request.policy.policy.image_key)
    verdict = judge(Expected(enrolled, site.measurements), proof.evidence, nonce, unix_ms)
    fatal = [finding.text for finding in verdict.findings if finding.fatal]
    if fatal:
        raise DeniedError(Reason.BAD_PROOF, "; ".join(fatal))
    return verdict.seen.quote.clock.reset_count
