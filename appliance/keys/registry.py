# SPDX-License-Identifier: Apache-2.0
"""Which device CA belongs to which zone, and which of them is denied.

The registry is public: the hub CA's certificate and, for each enrolled zone, the certificates of its boundary keys
(more than one after a change of key; receipts signed with the older one stay valid). A denied device CA proves no
connection; what it signed still verifies.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.claims import Signal
from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import certificate_der, check_device_ca
from appliance.keys.denied import Denial, read_denied
from appliance.keys.folder import PkiFolder

_log = logging.getLogger(__name__)

STATEMENT_PREFIX: Final = b"bsfg.v1 "
"""How every statement begins. The same key signs certificates, whose bytes can never begin so."""
LOOK_EVERY_S: Final = 1.0
"""How often the folder is looked at; a denial counts at most so much later."""


@dataclass(frozen=True, slots=True)
class Registry:
    """The hub CA and the device CAs of the enrolled zones; each was checked when it was taken in."""

    hub_ca: x509.Certificate
    device_cas: Mapping[ZoneId, tuple[x509.Certificate, ...]]
    denied: tuple[Denial, ...] = ()
    _denied: Mapping[str, Denial] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for zone, certificates in self.device_cas.items():
            for certificate in certificates:
                check_device_ca(self.hub_ca, zone, certificate)
        denied = {denial.certificate: denial for denial in self.denied}
        object.__setattr__(self, "_denied", denied)

    @classmethod
    def load(cls, folder: PkiFolder) -> Registry:
        """Read a node's folder. :raises DeniedError: ``bad_certificate`` with the file's name.

        :raises RefusedError: ``bad_document``: the deny list cannot be read; without it nobody is proven.
        """
        cas = {}
        for path in sorted(folder.zones.glob("*.pem")):
            try:
                cas[parse_zone(path.stem)] = tuple(x509.load_pem_x509_certificates(path.read_bytes()))
            except (OSError, ValueError, BsfgError) as error:
                raise DeniedError(Reason.BAD_CERTIFICATE, f"{path}: {error}") from error
        try:
            hub_ca = x509.load_pem_x509_certificate(folder.hub_ca.read_bytes())
        except (OSError, ValueError) as error:
            raise DeniedError(Reason.BAD_CERTIFICATE, f"{folder.hub_ca}: {error}") from error
        try:
            denied = read_denied(folder.denied)
        except (OSError, RefusedError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"{folder.denied}: {error}") from error
        return cls(hub_ca, cas, denied)

    def authorities(self, zone: ZoneId) -> tuple[bytes, ...]:
        """The device CA certificates (DER) of a zone, denied ones too; none when it is not enrolled."""
        return tuple(certificate_der(certificate) for certificate in self.device_cas.get(zone, ()))

    def denial(self, der: bytes) -> Denial | None:
        """The denial of a device CA certificate, if it was denied; another one for the same key is another matter."""
        return self._denied.get(hashlib.sha256(der).hexdigest())

    def trusted(self) -> list[x509.Certificate]:
        """Every device CA certificate that proves connections: registered and not denied."""
        return [certificate for found in self.trusted_of(self.device_cas).values() for certificate in found]

    def trusted_of(self, zones: Iterable[ZoneId]) -> dict[ZoneId, list[x509.Certificate]]:
        """As :meth:`trusted`, for some zones, by zone."""
        return {
            zone: [one for one in self.device_cas.get(zone, ()) if self.denial(certificate_der(one)) is None]
            for zone in zones
        }

    def is_boundary_key(self, zone: ZoneId, der: bytes) -> bool:
        """Whether these are the bytes of a registered device CA of that zone, denied or not."""
        return der in self.authorities(zone)

    def verifies(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """Whether a registered boundary key of that zone signed the statement.

        The certificate's dates are not asked, nor the deny list: a receipt proves what was so when it was given.
        """
        if not statement.startswith(STATEMENT_PREFIX) or not self.is_boundary_key(zone, signature.certificate):
            return False
        key = x509.load_der_x509_certificate(signature.certificate).public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            return False
        try:
            key.verify(signature.value, statement, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


_Stamp = tuple[tuple[str, int, int, int], ...]


class LiveRegistry:
    """The registry of a node's folder, read again when the folder changes.

    What is there is taken whole or not at all: while the files are bad the last good registry counts, and ``problem``
    says why. Until there was a good one, nobody is proven and nothing verifies. Looking at it costs no I/O;
    :meth:`run` does that, in a thread.
    """

    def __init__(self, folder: PkiFolder) -> None:
        self.folder = folder
        self.current: Registry | None = None
        self.problem: BsfgError | None = None
        self.changed = Signal()
        """Fires when another registry counts, or the problem is another one."""
        self._stamp: _Stamp | None = None
        self._looking = trio.Lock()

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        while True:
            await self.look()
            await trio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look at the folder now: whoever knows that it was just written need not wait."""
        async with self._looking:
            if await trio.to_thread.run_sync(self.refresh):
                self.changed.fire()

    def refresh(self) -> bool:
        """Look at the folder now; whether something is another than before. Blocking."""
        stamp = _stamp(self.folder)
        if stamp == self._stamp:
            return False
        registry = self.current
        problem: BsfgError | None = None
        try:
            registry = Registry.load(self.folder)
        except BsfgError as error:
            problem = error
            _log.warning("registry: %s", error)
        # Read again if it changed meanwhile: what was read may be half old, half new.
        self._stamp = stamp if _stamp(self.folder) == stamp else None
        self.current, self.problem = registry, problem
        return True

    # -- what connections ask (:class:`appliance.peer.identity.PeerRegistry`) ------------------------------------------

    @property
    def hub_ca(self) -> bytes | None:
        """The hub CA's certificate (DER), if there is a registry."""
        return certificate_der(self.current.hub_ca) if self.current is not None else None

    def authorities(self, zone: ZoneId) -> Sequence[bytes]:
        """See :meth:`Registry.authorities`."""
        return self.current.authorities(zone) if self.current is not None else ()

    def zones(self) -> Sequence[ZoneId]:
        """Every enrolled zone."""
        return tuple(self.current.device_cas) if self.current is not None else ()

    def denial(self, authority: bytes) -> str:
        """The words a device CA certificate was denied with; empty when it was not."""
        found = self.current.denial(authority) if self.current is not None else None
        return (found.reason or "without a reason") if found is not None else ""

    def verifies(self, zone: ZoneId, statement: bytes, signature: Signature) -> bool:
        """See :meth:`Registry.verifies`."""
        return self.current is not None and self.current.verifies(zone, statement, signature)


def _stamp(folder: PkiFolder) -> _Stamp:
    """What tells that a file was replaced or changed."""
    found = []
    for path in (folder.hub_ca, folder.denied, *sorted(folder.zones.glob("*.pem"))):
        try:
            state = path.stat()
        except OSError:
            continue
        found.append((str(path), state.st_mtime_ns, state.st_size, state.st_ino))
    return tuple(found)
