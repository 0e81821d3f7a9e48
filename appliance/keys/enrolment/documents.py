# SPDX-License-Identifier: Apache-2.0
"""The documents of the enrolment dialogue; each has one form only (:mod:`appliance.keys.documents`).

=========  ==========  =================================================================================================
request    box to hub  who I am: the TPM, its keys, the policy of the boundary key, the zone I am for
challenge  hub to box  a secret that only this TPM can open, and a nonce
proof      box to hub  the secret, and what the TPM states over the nonce; the request again, so the hub keeps nothing
grant      hub to box  the device CA certificate, and the certificates of the other side
pending    hub to box  a person, or the site's PKI, has yet to decide; come again
refused    hub to box  why not
=========  ==========  =================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Self, TypeAlias

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.evidence import EVIDENCE_BYTES, Evidence
from appliance.keys.documents import base64_bytes, base64_text, hex_bytes, parse_document, render_document
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.tpm.endorsement import fingerprint_of
from appliance.keys.tpm.public import Attestation, sha256

REQUEST_FORMAT: Final = "bsfg-enrol-request-1"
CHALLENGE_FORMAT: Final = "bsfg-enrol-challenge-1"
PROOF_FORMAT: Final = "bsfg-enrol-proof-1"
GRANT_FORMAT: Final = "bsfg-enrol-grant-1"
PENDING_FORMAT: Final = "bsfg-enrol-pending-1"
REFUSED_FORMAT: Final = "bsfg-enrol-refused-1"
REQUEST_BYTES: Final = 65536
PROOF_BYTES: Final = EVIDENCE_BYTES * 4 // 3 + 2 * REQUEST_BYTES
"""The largest document of the dialogue, for those who carry it."""
NONCE_BYTES: Final = 32
_DETAIL: Final = 500


@dataclass(frozen=True, slots=True)
class EnrolRequest:
    """What a box asks.

    :param ek_certificate: DER, or empty. :param ek_public, ak_public, boundary_public: TPMT_PUBLIC.
    :param csr: PKCS #10, DER, signed by the boundary key. :param nonce: makes this request another than the last.
    :param voucher: a :class:`~appliance.keys.enrolment.voucher.Voucher`'s document, or empty.
    :param release: a :class:`~appliance.keys.release.Release`'s document, for a box that was in quarantine, or empty.
    """

    zone: ZoneId
    ek_certificate: bytes
    ek_public: bytes
    ak_public: bytes
    boundary_public: bytes
    policy: BirthPolicy
    csr: bytes
    nonce: bytes
    voucher: bytes = b""
    release: bytes = b""

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the TPM that it names."""
        return fingerprint_of(self.ek_public)

    def render(self) -> bytes:
        """The one form of this request."""
        texts = {name: base64_text(getattr(self, name)) for name in _REQUEST_BYTES}
        return render_document(
            {
                "format": REQUEST_FORMAT,
                "zone": self.zone,
                "policy": base64_text(self.policy.render()),
                "nonce": self.nonce.hex(),
                **texts,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a request. :raises RefusedError: ``bad_document``."""
        fields = dict.fromkeys(("zone", "policy", "nonce", *_REQUEST_BYTES), str)
        values = parse_document(data, REQUEST_FORMAT, fields, REQUEST_BYTES)
        try:
            return cls(
                zone=parse_zone(values["zone"]),
                policy=BirthPolicy.parse(base64_bytes(values["policy"])),
                nonce=hex_bytes(values["nonce"], NONCE_BYTES),
                **{name: base64_bytes(values[name]) for name in _REQUEST_BYTES},
            )
        except (ValueError, BsfgError) as error:
            raise _bad("request", error) from error


_REQUEST_BYTES: Final = ("ek_certificate", "ek_public", "ak_public", "boundary_public", "csr", "voucher", "release")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a hub asks back.

    :param hub: the hub's zone. :param request: SHA-256 of the request. :param token: what the hub wants to see again;
        only it can read that. :param credential: TPM2B_ID_OBJECT. :param seed: TPM2B_ENCRYPTED_SECRET.
    :param nonce: what the TPM shall state things over. :param expires_unix_ms: by the hub's clock.
    """

    zone: ZoneId
    hub: ZoneId
    request: bytes
    token: bytes
    credential: bytes
    seed: bytes
    nonce: bytes
    expires_unix_ms: int

    def render(self) -> bytes:
        """The one form of this challenge."""
        return render_document(
            {
                "format": CHALLENGE_FORMAT,
                "zone": self.zone,
                "hub": self.hub,
                "request": self.request.hex(),
                "token": base64_text(self.token),
                "credential": base64_text(self.credential),
                "seed": base64_text(self.seed),
                "nonce": self.nonce.hex(),
                "expires_unix_ms": self.expires_unix_ms,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a challenge. :raises RefusedError: ``bad_document``."""
        texts = dict.fromkeys(("zone", "hub", "request", "token", "credential", "seed", "nonce"), str)
        values = parse_document(data, CHALLENGE_FORMAT, {**texts, "expires_unix_ms": int})
        try:
            return cls(
                parse_zone(values["zone"]),
                parse_zone(values["hub"]),
                hex_bytes(values["request"], 32),
                base64_bytes(values["token"]),
                base64_bytes(values["credential"]),
                base64_bytes(values["seed"]),
                hex_bytes(values["nonce"], NONCE_BYTES),
                values["expires_unix_ms"],
            )
        except (ValueError, BsfgError) as error:
            raise _bad("challenge", error) from error


@dataclass(frozen=True, slots=True)
class Proof:
    """A box's answer to a challenge.

    :param request: the request's document. :param token: the challenge's. :param secret: what the TPM opened.
    :param key, counter: the attestation key's certificates of the boundary key and of the counter, over the nonce.
    :param evidence: a quote over the nonce.
    """

    request: bytes
    token: bytes
    secret: bytes
    key: Attestation
    counter: Attestation
    evidence: Evidence

    def render(self) -> bytes:
        """The one form of this proof."""
        return render_document(
            {
                "format": PROOF_FORMAT,
                "request": base64_text(self.request),
                "token": base64_text(self.token),
                "secret": self.secret.hex(),
                "key_statement": base64_text(self.key.statement),
                "key_signature": base64_text(self.key.signature),
                "counter_statement": base64_text(self.counter.statement),
                "counter_signature": base64_text(self.counter.signature),
                "evidence": base64_text(self.evidence.render()),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a proof. :raises RefusedError: ``bad_document``."""
        attestations = [f"{what}_{part}" for what in ("key", "counter") for part in ("statement", "signature")]
        fields = dict.fromkeys(("request", "token", "secret", "evidence", *attestations), str)
        values = parse_document(data, PROOF_FORMAT, fields, PROOF_BYTES)
        try:
            key_statement, key_signature, counter_statement, counter_signature = (
                base64_bytes(values[name]) for name in attestations
            )
            return cls(
                base64_bytes(values["request"]),
                base64_bytes(values["token"]),
                hex_bytes(values["secret"], 32),
                Attestation(key_statement, key_signature),
                Attestation(counter_statement, counter_signature),
                Evidence.parse(base64_bytes(values["evidence"])),
            )
        except (ValueError, BsfgError) as error:
            raise _bad("proof", error) from error


@dataclass(frozen=True, slots=True)
class Grant:
    """A box is enrolled.

    :param hub: the hub's zone. :param device_ca: the certificate (DER) of the boundary key. :param hub_ca: DER; a box
        believes the one it was given beforehand, and refuses another.
    :param zones: device CA certificates (DER) of the hub's zone and of the box's own, the newest last.
    :param denied: those of them that count no more (:mod:`appliance.keys.denied`).
    :param attest_every_s: how often the hub wants to see a quote.
    """

    zone: ZoneId
    hub: ZoneId
    device_ca: bytes
    hub_ca: bytes
    zones: Mapping[ZoneId, tuple[bytes, ...]]
    denied: bytes
    attest_every_s: int

    def render(self) -> bytes:
        """The one form of this grant."""
        return render_document(
            {
                "format": GRANT_FORMAT,
                "zone": self.zone,
                "hub": self.hub,
                "device_ca": base64_text(self.device_ca),
                "hub_ca": base64_text(self.hub_ca),
                "zones": {zone: [base64_text(der) for der in ders] for zone, ders in self.zones.items()},
                "denied": base64_text(self.denied),
                "attest_every_s": self.attest_every_s,
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a grant. :raises RefusedError: ``bad_document``."""
        texts = dict.fromkeys(("zone", "hub", "device_ca", "hub_ca", "denied"), str)
        values = parse_document(data, GRANT_FORMAT, {**texts, "zones": dict, "attest_every_s": int}, 4 * REQUEST_BYTES)
        try:
            return cls(
                parse_zone(values["zone"]),
                parse_zone(values["hub"]),
                base64_bytes(values["device_ca"]),
                base64_bytes(values["hub_ca"]),
                {parse_zone(zone): tuple(map(base64_bytes, _list(ders))) for zone, ders in values["zones"].items()},
                base64_bytes(values["denied"]),
                values["attest_every_s"],
            )
        except (ValueError, BsfgError) as error:
            raise _bad("grant", error) from error


class Waits(StrEnum):
    """Whom an enrolment waits for."""

    APPROVAL = "approval"
    AUTHORITY = "authority"


@dataclass(frozen=True, slots=True)
class Pending:
    """The box proved itself; somebody has yet to decide. :param fingerprint: of its TPM."""

    zone: ZoneId
    fingerprint: str
    waits: Waits

    def render(self) -> bytes:
        """The one form of this answer."""
        values = {"zone": self.zone, "fingerprint": self.fingerprint, "waits": self.waits.value}
        return render_document({"format": PENDING_FORMAT, **values})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read this answer. :raises RefusedError: ``bad_document``."""
        values = parse_document(data, PENDING_FORMAT, dict.fromkeys(("zone", "fingerprint", "waits"), str))
        try:
            hex_bytes(values["fingerprint"], 32)
            return cls(parse_zone(values["zone"]), values["fingerprint"], Waits(values["waits"]))
        except (ValueError, BsfgError) as error:
            raise _bad("answer", error) from error


@dataclass(frozen=True, slots=True)
class Refusal:
    """The hub refuses. :param detail: for people."""

    reason: Reason
    detail: str

    @classmethod
    def of(cls, error: BsfgError) -> Self:
        """An error as an answer."""
        return cls(error.reason, "".join(each if each.isprintable() else "?" for each in error.detail)[:_DETAIL])

    def error(self) -> BsfgError:
        """The answer as an error, to be raised."""
        return DeniedError(self.reason, self.detail)

    def render(self) -> bytes:
        """The one form of this answer."""
        return render_document({"format": REFUSED_FORMAT, "reason": self.reason.value, "detail": self.detail})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read this answer. :raises RefusedError: ``bad_document``."""
        values = parse_document(data, REFUSED_FORMAT, {"reason": str, "detail": str})
        try:
            return cls.of(BsfgError(Reason(values["reason"]), values["detail"]))
        except ValueError as error:
            raise _bad("answer", error) from error


Answer: TypeAlias = Challenge | Grant | Pending | Refusal
"""What a hub may answer."""
_ANSWERS: Final[Mapping[str, type[Challenge | Grant | Pending | Refusal]]] = {
    CHALLENGE_FORMAT: Challenge,
    GRANT_FORMAT: Grant,
    PENDING_FORMAT: Pending,
    REFUSED_FORMAT: Refusal,
}


def parse_answer(data: bytes) -> Answer:
    """Read whatever a hub answered. :raises RefusedError: ``bad_document``: it is none of its answers."""
    for form, kind in _ANSWERS.items():
        if b'"format":"' + form.encode() + b'"' in data[:PROOF_BYTES]:
            return kind.parse(data)
    raise RefusedError(Reason.BAD_DOCUMENT, "not an answer of a hub")


def is_request(data: bytes) -> bool:
    """Whether a document says that it is a request, and not a proof."""
    return b'"format":"' + REQUEST_FORMAT.encode() + b'"' in data[:REQUEST_BYTES]


def digest_of(request: bytes) -> bytes:
    """How a challenge names a request."""
    return sha256(request)


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("a zone has a list of certificates")
    return value


def _bad(what: str, error: Exception) -> RefusedError:
    detail = error.detail if isinstance(error, BsfgError) else str(error)
    return RefusedError(Reason.BAD_DOCUMENT, f"{what}: {detail}")
