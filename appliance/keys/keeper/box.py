# SPDX-License-Identifier: Apache-2.0
"""What the keeper does with the TPM, in the TPM's own thread: opening, checking, and each call. Blocking."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.boundary_time import TpmClock
from appliance.keys.certificates import Authority, Session, certificate_der, new_session
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.csr import request_builder
from appliance.keys.enrolment.tpm_authority import certify_requested, open_tpm_authority
from appliance.keys.files import write_atomically
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.port import QUOTED_PCRS, BoxDescription, Certified, Latched, Quote
from appliance.keys.keeper.succession import SECRETS_FOLDER, adopt_secrets, prepare, reseal
from appliance.keys.release import Release, verify
from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.endorsement import Endorsement, activate_credential, read_endorsement
from appliance.keys.tpm.identity import BoundaryIdentity, load_p256, load_rsa
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import COUNTER_INDEX, Operators
from appliance.keys.tpm.provisioning import load_identity, provision, read_counter
from appliance.keys.tpm.public import Attestation, Digest, p256_key, sha256
from appliance.keys.tpm.rotation import commit
from appliance.keys.tpm.sealing import Sealed, seal, unseal
from appliance.keys.tpm.signer import BoundarySigner
from appliance.keys.tpm.simulated_boot import simulate_boot

RELEASE_FILE: Final = "release.json"
"""The release that opens the key now; it is written into the TPM again if somebody removed it there."""
LOG_BYTES: Final = 1024 * 1024
"""Longer logs are cut; a verifier then finds that they do not fit the quote."""
NONCE_BYTES: Final = range(16, 33)
_QUOTE_ATTEMPTS: Final = 3
_PEM_END: Final = b"-----END PUBLIC KEY-----"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the TPM found. :param problem: why the key cannot be used now; ``None``: it can."""

    counter: int
    clock: TpmClock
    problem: DeniedError | None
    successor: bool = False
    """Whether a new key waits to take over."""


class ImageFile:
    """The image's signatures over PCR 11, read when needed: the file comes with the image, and may be replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def over(self, digest: Digest, key: RSAPublicKey) -> bytes:
        """The signature over a policy digest. :raises DeniedError: ``image_not_signed``."""
        try:
            return ImageSignatures.parse(self._path.read_bytes(), key).over(digest, key)
        except (OSError, RefusedError) as error:
            raise DeniedError(Reason.IMAGE_NOT_SIGNED, f"{self._path}: {error}") from error


class Box:
    """An open TPM with this box's boundary key."""

    def __init__(self, config: KeeperConfig, device: Device, key: BoundaryKey) -> None:
        self._config = config
        self._device = device
        self._key = key
        self._endorsement: Endorsement | None = None
        self.successor: Box | None = None
        """The new key that waits for its certificate, where the configuration names other operators."""

    @classmethod
    def open(cls, config: KeeperConfig, hook: Callable[[str], None]) -> Box:
        """Connect, provision what is missing, and finish what was cut short.

        :param hook: called after each TPM command. :raises BsfgError: what hinders it.
        """
        folder = config.state_dir
        identity = load_identity(folder)
        device = Device(config.tpm.tcti, identity.srk_name if identity else None, hook)
        try:
            if config.tpm.simulated_boot:
                simulate_boot(device)
            operators, image_key = _born_with(config, identity)
            identity = provision(device, folder, operators, image_key)
            key = BoundaryKey(device, identity, ImageFile(config.trust.image_signatures), folder)
            box = cls(config, device, key)
            if key.resume_latch():
                box.import_again()
            adopt_secrets(folder, identity)
            box.prepare_successor()
        except BaseException:
            device.close()
            raise
        return box

    def close(self) -> None:
        """End session and connection."""
        with contextlib.suppress(Exception):
            self._device.close()

    @property
    def identity(self) -> BoundaryIdentity:
        """What the key is."""
        return self._key.identity

    def prepare_successor(self) -> None:
        """Make the key beside this one that the configuration asks for, or remove one that it does not."""
        try:
            operators, image_key = _born_with(self._config, None)
        except BsfgError as error:
            _log.warning("whom the box is to obey cannot be read: %s", error)
            return
        folder, images = self._config.state_dir, ImageFile(self._config.trust.image_signatures)
        waiting = prepare(self._device, self._key, folder, operators, image_key)
        if waiting is not None:
            self.successor = Box(self._config, self._device, BoundaryKey(self._device, waiting, images, folder))

    def needed_successor(self) -> Box:
        """:raises UnavailableError: ``no_successor``."""
        if self.successor is None:
            raise UnavailableError(Reason.NO_SUCCESSOR)
        return self.successor

    def succeed(self) -> None:
        """Switch to the key that waits, and take the secrets along. :raises UnavailableError: ``no_successor``."""
        folder, successor = self._config.state_dir, self.needed_successor()
        reseal(self._device, self._key, successor._key, folder)
        commit(self._device, folder, ImageFile(self._config.trust.image_signatures))
        self._key, self.successor = successor._key, None
        adopt_secrets(folder, self.identity)
        (folder / RELEASE_FILE).unlink(missing_ok=True)  # of the former key
        _log.warning("the boundary key was changed; it obeys the operators of the configuration now")

    def check(self) -> Health:
        """Whether the key can be used now."""
        try:
            problem, (_, counter) = None, self._key.branch()
        except DeniedError as error:
            problem, counter = error, read_counter(self._device)
        return Health(counter, self._device.clock(), problem, self.successor is not None)

    def clock(self) -> TpmClock:
        """The TPM's clock."""
        return self._device.clock()

    def sign(self, statement: bytes) -> bytes:
        """The boundary key's signature over a statement."""
        return self._key.sign(sha256(statement))

    def issue(self, zone: ZoneId, device_ca: x509.Certificate, now: datetime) -> Session:
        """A session certificate, signed by the boundary key."""
        validity = timedelta(seconds=self._config.session_s)
        return new_session(Authority(BoundarySigner(self._key), device_ca), zone, now, validity)

    def certificate_request(self, zone: ZoneId) -> bytes:
        """A request for the device CA (PKCS #10, DER)."""
        request = request_builder(zone).sign(BoundarySigner(self._key), hashes.SHA256())
        return request.public_bytes(serialization.Encoding.DER)

    def hub_ca(self, zone: ZoneId, now: datetime) -> bytes:
        """The hub CA's certificate (DER); it is made if there is none."""
        return certificate_der(self._authority(zone, now).certificate)

    def certify_zone(self, hub: ZoneId, zone: ZoneId, request: bytes, now: datetime) -> bytes:
        """A zone's device CA certificate (DER), signed by the hub CA. :param hub: this keeper's zone."""
        return certificate_der(certify_requested(self._authority(hub, now), zone, request, now))

    def _authority(self, zone: ZoneId, now: datetime) -> Authority:
        images, folder = ImageFile(self._config.trust.image_signatures), self._config.state_dir
        return open_tpm_authority(self._device, self.identity, images, folder, zone, now)

    def seal(self, name: str, secret: bytes) -> None:
        """Keep a secret."""
        path = self._secret(name)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(path, seal(self._device, self._key, secret).render())

    def unseal(self, name: str) -> bytes:
        """The secret of that name."""
        try:
            data = self._secret(name).read_bytes()
        except FileNotFoundError:
            raise RefusedError(Reason.UNKNOWN_SECRET, name) from None
        return unseal(self._device, self._key, Sealed.parse(data))

    def quote(self, nonce: bytes) -> Quote:
        """A quote, and the values it is over; a PCR that is extended in between is read again."""
        check_nonce(nonce)
        with self._device.attestation_key() as (attestation_key, _):
            for _ in range(_QUOTE_ATTEMPTS):
                before = self._device.pcr_read(QUOTED_PCRS)
                attestation = self._device.quote(attestation_key, QUOTED_PCRS, nonce)
                logs = (_log_of(self._config.trust.boot_log), _log_of(self._config.trust.runtime_log))
                if attestation.statement.endswith(sha256(b"".join(before[pcr] for pcr in sorted(before)))):
                    return Quote(attestation, before, *logs)
        raise DeniedError(Reason.TPM_REFUSED, "PCRs change all the time")

    def latch(self, evidence: Digest, after: int | None) -> Latched:
        """Lock the key. :param after: the counter when it was asked for; beyond that it counts no further."""
        return Latched(*self._key.latch(evidence, after))

    def enrolled(self, zone: ZoneId) -> EnrolledBox:
        """This box, as it is enrolled: its key with what that was born under, and its attestation key."""
        with self._device.attestation_key() as (_, ak_public):
            identity = self.identity
            return EnrolledBox(zone, BirthPolicy.of(identity), identity.public, p256_key(ak_public))

    def describe(self) -> BoxDescription:
        """What is public of this box."""
        endorsement, identity = self._endorsed(), self.identity
        with self._device.attestation_key() as (_, ak_public):
            pass
        indices = (self._device.nv_public(COUNTER_INDEX), self._device.nv_public(identity.policy.release_index))
        counter, release = (public.marshal() if public is not None else b"" for public in indices)
        policy = BirthPolicy.of(identity).render()
        return BoxDescription(
            endorsement.certificate, endorsement.public, ak_public, identity.public, policy, counter, release
        )

    def activate(self, credential: bytes, secret: bytes) -> bytes:
        """What a hub hid for this TPM.

        Some TPMs call it a failure of theirs when they cannot decrypt; then they answer the next command all the same.
        """
        kind = self._endorsed().kind
        try:
            return activate_credential(self._device, kind, credential, secret)
        except IntegrityError as error:
            if error.reason is not Reason.TPM_FAULT:
                raise
            self._device.clock()
            raise DeniedError(Reason.TPM_REFUSED, f"not made for this TPM, or damaged: {error.detail}") from error

    def certify(self, nonce: bytes) -> Certified:
        """Key and counter, certified."""
        check_nonce(nonce)
        key: Attestation = self._key.certify(nonce)
        return Certified(key, self._key.certify_counter(nonce), self._release())

    def import_release(self, data: bytes) -> None:
        """Write a release into the TPM, if it is for this box and for the counter as it is.

        An older one would open nothing, and would close what is open.

        :raises DeniedError: ``bad_release``.
        """
        release = Release.parse(data)
        counter = read_counter(self._device)
        if release.counter != counter:
            raise DeniedError(Reason.BAD_RELEASE, f"it is for counter {release.counter}; here it is {counter}")
        self._key.import_release(*verify(self.identity.policy, release))
        write_atomically(self._config.state_dir / RELEASE_FILE, data)

    def _release(self) -> bytes:
        try:
            return (self._config.state_dir / RELEASE_FILE).read_bytes()
        except OSError:
            return b""

    def import_again(self) -> None:
        """Bring back the kept release, where provisioning had to make its index anew. It opens nothing else."""
        with contextlib.suppress(OSError, BsfgError):
            self.import_release((self._config.state_dir / RELEASE_FILE).read_bytes())
            _log.info("the release was written into the TPM again")

    def _endorsed(self) -> Endorsement:
        if self._endorsement is None:
            self._endorsement = read_endorsement(self._device)
        return self._endorsement

    def _secret(self, name: str) -> Path:
        return self._config.state_dir / SECRETS_FOLDER / f"{name}.json"


def check_nonce(nonce: bytes) -> None:
    """:raises RefusedError: ``bad_input``: no nonce of 16 to 32 bytes."""
    if len(nonce) not in NONCE_BYTES:
        raise RefusedError(Reason.BAD_INPUT, "a nonce has 16 to 32 bytes")


def _born_with(config: KeeperConfig, identity: BoundaryIdentity | None) -> tuple[Operators, RSAPublicKey]:
    """The public keys of a new boundary key; one that exists keeps its own. :raises RefusedError: ``bad_key``."""
    if identity is not None:
        return identity.policy.operators, identity.policy.image_key
    try:
        parts = config.trust.operators.read_bytes().split(_PEM_END)[:-1]
        image_key = load_rsa(config.trust.image_key.read_bytes())
    except OSError as error:
        raise RefusedError(Reason.BAD_KEY, f"{error.filename}: {error.strerror}") from error
    return Operators(tuple(load_p256(part + _PEM_END) for part in parts)), image_key


def _log_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(LOG_BYTES)
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{path}: {error.strerror}") from error
