# SPDX-License-Identifier: Apache-2.0
"""What the keeper does for others: the port, one real client, one fake, one contract suite that both pass.

Every call may raise :class:`~appliance.boundary.errors.UnavailableError`: ``keeper_unavailable`` (nobody answers),
``tpm_absent``, ``tpm_busy``; and :class:`~appliance.boundary.errors.DeniedError`: ``caller_denied`` (this caller may
not ask for that), ``key_latched``, ``tpm_refused``. No call hangs: each ends within its deadline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.keys.tpm.public import Attestation, Digest

QUOTED_PCRS = (0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 13, 14, 15)
"""The PCRs (SHA-256 bank) that a quote covers: firmware and boot, and those the boundary key is bound to."""


class KeeperState(StrEnum):
    """What the keeper can do now; each state says one thing to do next."""

    READY = "ready"
    """It issues sessions and signs."""
    NOT_PROVISIONED = "not_provisioned"
    """There is no boundary key yet."""
    NOT_ENROLLED = "not_enrolled"
    """There is a boundary key, and no certificate of the hub for it."""
    TIME_UNKNOWN = "time_unknown"
    """No time token was taken since the machine started; sessions wait for one."""
    LATCHED = "latched"
    """The boundary key is locked until two operators release it."""
    TPM_BUSY = "tpm_busy"
    """The TPM takes no command now."""
    TPM_ABSENT = "tpm_absent"
    """The TPM cannot be reached, or does not answer."""
    TPM_REFUSED = "tpm_refused"
    """The policy does not hold: another image, other PCRs."""
    TPM_FAULT = "tpm_fault"
    """The TPM answers nonsense, or is another one."""


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session certificate that the keeper wrote: one PEM file with key, certificate and device CA certificate.

    :param ends_at: Unix seconds, boundary time. :param serial: of the certificate, as lower-case hex.
    """

    path: Path
    ends_at: float
    serial: str


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """The keeper's state, for people and programs.

    :param kind: ``tpm``, or ``swtpm``: a software TPM, for development alone.
    :param boundary_offset_ns: boundary time minus CLOCK_BOOTTIME; ``None``: no token since the machine started.
    :param floor_unix_ms: boundary time is not before this.
    :param problem: reason code and detail of what is wrong, or empty.
    :param sessions: by name (``agent``, ``control``). :param renewals: sessions issued since the keeper started.
    :param commands: TPM commands sent since the keeper started.
    """

    state: KeeperState
    kind: str
    zone: ZoneId
    counter: int | None
    boundary_offset_ns: int | None
    floor_unix_ms: int
    sessions: Mapping[str, SessionInfo]
    renewals: int
    commands: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Quote:
    """A quote by the attestation key over :data:`QUOTED_PCRS`, and what it needs to be checked."""

    attestation: Attestation
    pcrs: Mapping[int, bytes]
    boot_log: bytes
    """The firmware's event log (TCG PC Client format), empty where there is none."""
    runtime_log: bytes
    """The operating system's log of its own measurements (JSON-SEQ, systemd's format), empty where there is none."""


@dataclass(frozen=True, slots=True)
class BoxDescription:
    """What a hub must know of a box to enrol it; all of it is public and none of it is trusted yet.

    :param ek_certificate: DER; empty when the TPM has none. :param ek_public: TPMT_PUBLIC of the endorsement key.
    :param ak_public: TPMT_PUBLIC of the attestation key. :param boundary_public: TPMT_PUBLIC of the boundary key.
    :param policy: what the boundary key's authPolicy is made of (``BoundaryIdentity.public_document``, JSON).
    :param counter_public: TPMS_NV_PUBLIC of the counter. :param release_public: TPMS_NV_PUBLIC of the release index.
    """

    ek_certificate: bytes
    ek_public: bytes
    ak_public: bytes
    boundary_public: bytes
    policy: bytes
    counter_public: bytes
    release_public: bytes


@dataclass(frozen=True, slots=True)
class Certified:
    """What the attestation key certifies of the boundary key and the counter, over one nonce.

    :param release: the last release that was imported, as it came; empty: none. It is no secret, and proves itself.
    """

    key: Attestation
    counter: Attestation
    release: bytes = b""


@dataclass(frozen=True, slots=True)
class Latched:
    """The latch is closed: the counter now, and its certificate over the evidence's digest."""

    counter: int
    certificate: Attestation


class KeeperPort(Protocol):
    """The keeper, as its callers see it."""

    async def status(self) -> KeeperStatus:
        """What it can do now. Never raises but ``keeper_unavailable``."""
        ...

    async def session(self, name: str) -> SessionInfo:
        """The session certificate of a service, renewed if it is past half its life.

        :raises UnavailableError: ``not_enrolled``, ``time_unknown``.
        """
        ...

    async def sign(self, statement: bytes) -> Signature:
        """Sign a statement (``bsfg.v1 …``) with the boundary key; the caller's role says which kinds.

        :raises UnavailableError: ``not_enrolled``.
        """
        ...

    async def seal(self, name: str, secret: bytes) -> None:
        """Keep a secret (at most 128 bytes) that only the TPM can open, under the boundary key's policy."""
        ...

    async def unseal(self, name: str) -> bytes:
        """What :meth:`seal` kept. :raises RefusedError: ``unknown_secret``."""
        ...

    async def quote(self, nonce: bytes) -> Quote:
        """A quote over :data:`QUOTED_PCRS` with this nonce (16 to 32 bytes); also while latched."""
        ...

    async def latch(self, evidence: Digest) -> Latched:
        """Lock the boundary key until two operators release it; finishes what an earlier call began."""
        ...

    async def describe(self) -> BoxDescription:
        """What an enrolment request says of this box."""
        ...

    async def certificate_request(self) -> bytes:
        """A PKCS #10 request (DER) for the device CA, signed by the boundary key."""
        ...

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        """What a hub hid for this endorsement key and this attestation key (TPM2_ActivateCredential).

        :param credential: TPM2B_ID_OBJECT. :param secret: TPM2B_ENCRYPTED_SECRET.
        :raises DeniedError: ``tpm_refused``: it was made for another TPM or another attestation key.
        """
        ...

    async def certify(self, nonce: bytes) -> Certified:
        """Boundary key and counter, certified over a nonce; also while latched."""
        ...

    async def install(self, device_ca: bytes) -> None:
        """Take the device CA certificate (DER) for this boundary key. :raises DeniedError: ``bad_certificate``."""
        ...

    async def import_release(self, release: bytes) -> None:
        """Take a release of both operators. :raises RefusedError, DeniedError: as :mod:`appliance.keys.release`."""
        ...

    async def time_nonce(self) -> bytes:
        """A new nonce for a time token; the last few are good, each once."""
        ...

    async def set_time(self, token: bytes) -> int:
        """Take a hub's time token over one of our nonces; answers boundary time, Unix milliseconds.

        :raises DeniedError: ``bad_time_token``.
        """
        ...

    async def hub_ca(self) -> bytes:
        """The certificate (DER) of the hub CA whose key is in this TPM; made if there is none.

        :raises RefusedError: ``bad_input``: this is not a hub's keeper.
        """
        ...

    async def certify_zone(self, zone: ZoneId, request: bytes) -> bytes:
        """Certify a zone's boundary key with the hub CA: the device CA certificate (DER), for that zone's name alone.

        Whether the key is the zone's, and in a TPM, the caller must have proven.

        :param request: of the zone's keeper, as :meth:`certificate_request` gives it.
        :raises RefusedError: ``bad_input``: this is not a hub's keeper, or that is no zone.
        :raises DeniedError: ``bad_proof``: the request is not that zone's, or not signed by its own key.
        """
        ...


SESSION_NAMES: Sequence[str] = ("agent", "control")
"""The services of a box that hold a session: the agent (or the hub), and nats-control."""
