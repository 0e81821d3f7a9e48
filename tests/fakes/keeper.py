# SPDX-License-Identifier: Apache-2.0
"""A keeper in memory: its keys are in this process, its TPM is a counter and a table of PCRs."""

from __future__ import annotations

import struct
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.boundary_time import BoundaryClock
from appliance.keys.certificates import Authority, certificate_der, check_device_ca, new_hub_ca, new_session
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.csr import in_one_form, request_builder
from appliance.keys.enrolment.tpm_authority import certify_requested
from appliance.keys.keeper.port import (
    QUOTED_PCRS,
    SESSION_NAMES,
    BoxDescription,
    Certified,
    KeeperState,
    KeeperStatus,
    Latched,
    Quote,
    SessionInfo,
)
from appliance.keys.keeper.roles import check_secret_name, statement_kind
from appliance.keys.keeper.sessions import RenewalSchedule, write_session
from appliance.keys.operators import sign
from appliance.keys.release import Release, verify
from appliance.keys.time_store import machine_readings
from appliance.keys.time_token import HubTrust
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, DeviceRef, Operators, counter_public, latch_word
from appliance.keys.tpm.public import (
    ATTESTATION,
    BOUNDARY,
    SHA256,
    Attestation,
    Digest,
    ecdsa_public_of,
    name_of,
    sha256,
    sized,
)


class FakeKeeper:
    """A :class:`appliance.keys.keeper.port.KeeperPort`.

    :param folder: where session files go. :param activations: by (credential, secret), what activation gives.
    """

    def __init__(
        self,
        folder: Path,
        zone: ZoneId,
        trust: HubTrust,
        operators: Operators,
        image_key: rsa.RSAPublicKey,
        random: Callable[[], float] = lambda: 0.5,
    ) -> None:
        self.folder = folder
        self.zone = zone
        self.trust = trust
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.attestation_key = ec.generate_private_key(ec.SECP256R1())
        self.counter = 1
        self.pcrs = {pcr: bytes([pcr]) * 32 for pcr in QUOTED_PCRS}
        self.device_ca: x509.Certificate | None = None
        self.clock = BoundaryClock()
        self.activations: dict[tuple[bytes, bytes], bytes] = {}
        self.absent = False
        policy = BoundaryPolicy(DeviceRef(sha256(b"fake box")), operators, image_key)
        self.birth = BirthPolicy(policy, self.counter, {pcr: self.pcrs[pcr] for pcr in BOUND_PCRS})
        self._released: Digest | None = None
        self._release_file = b""
        self._authority: Authority | None = None
        self._secrets: dict[str, bytes] = {}
        self._schedules = {name: RenewalSchedule(random) for name in SESSION_NAMES}
        self._sessions: dict[str, SessionInfo] = {}
        self._renewals = 0

    # -- what a TPM would do ------------------------------------------------------------------------------------------

    def _present(self) -> None:
        if self.absent:
            raise UnavailableError(Reason.TPM_ABSENT, "the test says so")

    def _open(self) -> None:
        """:raises DeniedError: ``key_latched``, ``tpm_refused``."""
        self._present()
        now = self.birth.policy.x(self.counter, {pcr: self.pcrs[pcr] for pcr in BOUND_PCRS})
        if now in {self.birth.policy.x(self.birth.counter, self.birth.pcrs), self._released}:
            return
        if self.counter != self.birth.counter:
            raise DeniedError(Reason.KEY_LATCHED, f"counter {self.counter}")
        raise DeniedError(Reason.TPM_REFUSED, "PCRs changed")

    def _attest(self, kind: int, qualifying: bytes, body: bytes) -> Attestation:
        self._present()
        signer = name_of(ecdsa_public_of(self.attestation_key.public_key(), ATTESTATION))
        head = struct.pack(">IH", 0xFF544347, kind) + sized(signer) + sized(qualifying) + bytes(25)
        return Attestation(head + body, self.attestation_key.sign(head + body, ec.ECDSA(hashes.SHA256())))

    def _counter(self, qualifying: bytes) -> Attestation:
        name = counter_public().written().name
        return self._attest(0x8014, qualifying, sized(name) + struct.pack(">HHQ", 0, 8, self.counter))

    @property
    def _public(self) -> bytes:
        return ecdsa_public_of(self.key.public_key(), BOUNDARY, self.birth.auth_policy)

    # -- the port -----------------------------------------------------------------------------------------------------

    async def status(self) -> KeeperStatus:
        """As the port says."""
        state, problem = KeeperState.READY, ""
        try:
            self._open()
        except BsfgError as error:
            state, problem = KeeperState(error.reason.removeprefix("key_")), str(error)
        else:
            if self.device_ca is None:
                state = KeeperState.NOT_ENROLLED
            elif self._unix_ms() is None:
                state = KeeperState.TIME_UNKNOWN
        readings = machine_readings()
        offset_ns, floor = self.clock.offset_ns(readings.boot_id), self.clock.floor_unix_ms(readings)
        return KeeperStatus(
            state, "fake", self.zone, self.counter, offset_ns, floor, dict(self._sessions), self._renewals, 0, problem
        )

    async def session(self, name: str) -> SessionInfo:
        """As the port says."""
        if name not in self._schedules:
            raise RefusedError(Reason.BAD_INPUT, "no such session")
        if self.device_ca is None:
            raise UnavailableError(Reason.NOT_ENROLLED)
        unix_ms = self._unix_ms()
        if unix_ms is None:
            raise UnavailableError(Reason.TIME_UNKNOWN)
        self._open()
        now, schedule = unix_ms / 1000, self._schedules[name]
        if schedule.due(now):
            session = new_session(Authority(self.key, self.device_ca), self.zone, datetime.fromtimestamp(now, UTC))
            path, certificate = self.folder / f"{name}.pem", session.certificate
            write_session(path, session.pem(), None)
            ends_at = certificate.not_valid_after_utc.timestamp()
            schedule.issued(now, ends_at)
            self._sessions[name] = SessionInfo(path, ends_at, f"{certificate.serial_number:x}")
            self._renewals += 1
        return self._sessions[name]

    async def sign(self, statement: bytes) -> Signature:
        """As the port says."""
        statement_kind(statement)
        if self.device_ca is None:
            raise UnavailableError(Reason.NOT_ENROLLED)
        self._open()
        return Signature(sign(self.key, statement), certificate_der(self.device_ca))

    async def seal(self, name: str, secret: bytes) -> None:
        """As the port says."""
        check_secret_name(name)
        if not 0 < len(secret) <= 128:
            raise RefusedError(Reason.BAD_INPUT, "1 to 128 bytes")
        self._present()
        self._secrets[name] = secret

    async def unseal(self, name: str) -> bytes:
        """As the port says."""
        check_secret_name(name)
        if name not in self._secrets:
            raise RefusedError(Reason.UNKNOWN_SECRET, name)
        self._open()
        return self._secrets[name]

    async def quote(self, nonce: bytes) -> Quote:
        """As the port says."""
        _check_nonce(nonce)
        bitmap = sum(1 << pcr for pcr in self.pcrs).to_bytes(3, "little")
        digest = sha256(b"".join(self.pcrs[pcr] for pcr in sorted(self.pcrs)))
        body = struct.pack(">IHB", 1, SHA256, 3) + bitmap + sized(digest)
        return Quote(self._attest(0x8018, nonce, body), dict(self.pcrs), b"", b"")

    async def latch(self, evidence: Digest) -> Latched:
        """As the port says."""
        if len(evidence) != 32:
            raise RefusedError(Reason.BAD_INPUT, "a digest has 32 bytes")
        try:
            self._open()
            latched = False
        except DeniedError as error:
            latched = error.reason is Reason.KEY_LATCHED
        if not latched:
            self.counter += 1
            self.pcrs[14] = sha256(self.pcrs[14] + latch_word(evidence))
        for name, schedule in self._schedules.items():
            (self.folder / f"{name}.pem").unlink(missing_ok=True)
            schedule.forget()
        self._sessions.clear()
        return Latched(self.counter, self._counter(evidence))

    async def describe(self) -> BoxDescription:
        """As the port says; there is no endorsement key."""
        ak_public = ecdsa_public_of(self.attestation_key.public_key(), ATTESTATION)
        policy, counter = self.birth.policy, counter_public().written().marshal()
        return BoxDescription(
            b"", b"", ak_public, self._public, self.birth.render(), counter, policy.release_public.marshal()
        )

    async def certificate_request(self) -> bytes:
        """As the port says."""
        self._open()
        request = request_builder(self.zone).sign(self.key, hashes.SHA256())
        return in_one_form(request.public_bytes(serialization.Encoding.DER))

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        """As the port says."""
        self._present()
        found = self.activations.get((credential, secret))
        if found is None:
            raise DeniedError(Reason.TPM_REFUSED, "made for another TPM")
        return found

    async def certify(self, nonce: bytes) -> Certified:
        """As the port says."""
        _check_nonce(nonce)
        name = sized(name_of(self._public))
        return Certified(self._attest(0x8017, nonce, name + name), self._counter(nonce), self._release_file)

    async def install(self, device_ca: bytes) -> None:
        """As the port says."""
        try:
            certificate = x509.load_der_x509_certificate(device_ca)
        except ValueError as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, str(error)) from error
        if certificate.public_key() != self.key.public_key():
            raise DeniedError(Reason.BAD_CERTIFICATE, "for another key")
        check_device_ca(self.trust.hub_ca, self.zone, certificate)
        self.device_ca = certificate

    async def import_release(self, release: bytes) -> None:
        """As the port says."""
        parsed = Release.parse(release)
        if parsed.counter != self.counter:
            raise DeniedError(Reason.BAD_RELEASE, f"for counter {parsed.counter}, not {self.counter}")
        self._present()
        self._released, _ = verify(self.birth.policy, parsed)
        self._release_file = release

    async def time_nonce(self) -> bytes:
        """As the port says."""
        return self.clock.nonce(machine_readings())

    async def set_time(self, token: bytes) -> int:
        """As the port says."""
        return self.clock.take(token, self.trust, machine_readings()).unix_ms

    async def hub_ca(self) -> bytes:
        """As the port says."""
        return certificate_der(self._hub_ca().certificate)

    async def certify_zone(self, zone: ZoneId, request: bytes) -> bytes:
        """As the port says."""
        authority = self._hub_ca()
        parse_zone(zone)
        self._open()
        return certificate_der(certify_requested(authority, zone, request, datetime.now(UTC)))

    def _hub_ca(self) -> Authority:
        if self.zone != self.trust.zone:
            raise RefusedError(Reason.BAD_INPUT, "not a hub's keeper")
        if self._authority is None:
            self._open()
            self._authority = new_hub_ca(datetime.now(UTC))
        return self._authority

    def _unix_ms(self) -> int | None:
        return self.clock.unix_ms(machine_readings())


def _check_nonce(nonce: bytes) -> None:
    if not 16 <= len(nonce) <= 32:
        raise RefusedError(Reason.BAD_INPUT, "a nonce has 16 to 32 bytes")
