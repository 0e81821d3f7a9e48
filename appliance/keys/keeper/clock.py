# SPDX-License-Identifier: Apache-2.0
"""Boundary time in the keeper: the rules of :class:`BoundaryClock`, with this machine's clocks and files. Blocking.

The hub's boundary time is its wall clock: it is where everybody else's comes from.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.boundary_time import BoundaryClock, Readings, TpmClock
from appliance.keys.certificates import certificate_der
from appliance.keys.denied import read_denied
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.time_store import TimeStore, built_unix_ms, machine_readings
from appliance.keys.time_token import HubTrust

OFFSET_FILE = "boundary-time.json"
TOKEN_FILE = "last-time-token.json"  # noqa: S105 - a file's name
_NS_PER_MS = 1_000_000


class KeeperClock:
    """What time it is at the boundary, as this box knows it."""

    def __init__(self, config: KeeperConfig) -> None:
        self._config = config
        self._store = TimeStore(config.run_dir / OFFSET_FILE, config.state_dir / TOKEN_FILE)
        offset, last = self._store.load()
        self._clock = BoundaryClock(built_unix_ms(config.trust.built), offset=offset, last=last)
        self.tpm: TpmClock | None = None
        """The TPM's clock when it was read last."""

    def unix_ms(self) -> int | None:
        """Boundary time; ``None``: no token was taken in this boot."""
        if self._config.is_hub:
            return time.time_ns() // _NS_PER_MS
        return self._clock.unix_ms(self._readings())

    def now(self) -> datetime | None:
        """Boundary time as a date; ``None``: as :meth:`unix_ms`."""
        unix_ms = self.unix_ms()
        return None if unix_ms is None else datetime.fromtimestamp(unix_ms / 1000, UTC)

    def offset_ns(self) -> int | None:
        """Boundary time minus CLOCK_BOOTTIME."""
        if self._config.is_hub:
            return time.time_ns() - self._readings().boottime_ns
        readings = self._readings()
        return self._clock.offset_ns(readings.boot_id)

    def floor_unix_ms(self) -> int:
        """Boundary time is not before this."""
        return self._clock.floor_unix_ms(self._readings())

    def nonce(self) -> bytes:
        """A new nonce for a token."""
        return self._clock.nonce(self._readings())

    def take(self, token: bytes, boottime_ns: int, tpm: TpmClock | None) -> int:
        """Take a token that came at ``boottime_ns``; answers boundary time, Unix milliseconds.

        :raises DeniedError: ``bad_time_token``. :raises RefusedError: ``bad_input``: on the hub itself.
        """
        if self._config.is_hub:
            raise RefusedError(Reason.BAD_INPUT, "the hub's boundary time is its own clock")
        readings = self._readings()
        readings = Readings(boottime_ns, readings.boot_id, tpm)
        taken = self._clock.take(token, self._trust(), readings)
        self._store.save(taken)
        return taken.unix_ms

    def forget_floor(self) -> None:
        """The box was enrolled anew: see :meth:`BoundaryClock.forget_floor`."""
        self._store.forget_floor()
        self._clock.forget_floor()

    def _readings(self) -> Readings:
        return machine_readings(self.tpm)

    def _trust(self) -> HubTrust:
        """The hub's registered boundary keys; before enrolment any that the hub CA, given beforehand, signed."""
        folder, hub = PkiFolder(self._config.pki_dir), self._config.hub
        try:
            hub_ca = x509.load_pem_x509_certificate(folder.hub_ca.read_bytes())
            path = folder.zone(hub)
            registered = x509.load_pem_x509_certificates(path.read_bytes()) if path.exists() else []
            denied = {denial.certificate for denial in read_denied(folder.denied)}
        except (OSError, ValueError, RefusedError) as error:
            raise DeniedError(Reason.BAD_TIME_TOKEN, f"the hub's certificates: {error}") from error
        pinned = [one for one in registered if one.fingerprint(hashes.SHA256()).hex() not in denied]
        if registered and not pinned:
            raise DeniedError(Reason.BAD_TIME_TOKEN, "every registered boundary key of the hub was denied")
        return HubTrust(hub, hub_ca, tuple(map(certificate_der, pinned)))
