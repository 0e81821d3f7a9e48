# SPDX-License-Identifier: Apache-2.0
"""The development CA: makes the hub CA and the **software** keys of all zones of an environment, on one machine.

Enrolment takes its place later: there a device CA is signed for a key that was made in a TPM and never left it. Here
one program makes all keys, of both sides; so it is for development and tests alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import Authority, certificate_pem, new_device_ca, new_hub_ca
from appliance.keys.files import PRIVATE, PUBLIC, locked, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.registry import LiveRegistry, Registry
from appliance.keys.software import SoftwareKeys

HUB_CA_FILE: Final = "hub-ca-private.pem"
"""The hub CA's key and certificate, in the CA's own folder; no node gets it."""
DEV_SESSION_VALIDITY: Final = timedelta(days=7)
"""How long a development session is good for: longer than any demo, shorter than anybody's memory of it."""


def ensure_pki(
    ca_folder: Path,
    nodes: Mapping[ZoneId, Path],
    validity: timedelta = DEV_SESSION_VALIDITY,
    now: datetime | None = None,
) -> None:
    """Make whatever is missing: hub CA, each zone's boundary key, each node's folder, sessions past half their life.

    What is there stays. Each file is written whole or not at all, and a node's folder is derived from keys already on
    disk, so it may be killed anywhere and called again. Two calls at once take turns.

    :param nodes: each zone with its node's folder (``pki_dir``).
    :param validity: of new sessions.
    :raises UnavailableError: ``bad_environment``: a key on disk cannot be read.
    :raises DeniedError: ``bad_certificate``: a boundary key on disk was not signed by this hub CA for this zone.
    """
    moment = now or datetime.now(UTC)
    for folder in (ca_folder, *nodes.values()):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(ca_folder):
        hub = _read(ca_folder / HUB_CA_FILE)
        if hub is None:
            hub = new_hub_ca(moment)
            write_atomically(ca_folder / HUB_CA_FILE, hub.pem(), PRIVATE)
        boundaries = {zone: _boundary(hub, zone, PkiFolder(path).boundary, moment) for zone, path in nodes.items()}
        registry = Registry(hub.certificate, {zone: (key.certificate,) for zone, key in boundaries.items()})
        for zone, path in nodes.items():
            pki = PkiFolder(path)
            _hand_out(registry, pki)
            _ensure_session(SoftwareKeys(zone, pki, boundaries[zone], LiveRegistry(pki)), validity, moment)


def _boundary(hub: Authority, zone: ZoneId, path: Path, moment: datetime) -> Authority:
    boundary = _read(path)
    if boundary is None:
        boundary = new_device_ca(hub, zone, moment)
        write_atomically(path, boundary.pem(), PRIVATE)
    return boundary


def _read(path: Path) -> Authority | None:
    try:
        return Authority.from_pem(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{path}: {error}") from error


def _hand_out(registry: Registry, folder: PkiFolder) -> None:
    """Give a node the public part: the hub CA and all zones' device CAs."""
    folder.zones.mkdir(mode=0o755, exist_ok=True)
    texts = {folder.hub_ca: certificate_pem(registry.hub_ca)}
    for zone, certificates in registry.device_cas.items():
        texts[folder.zone(zone)] = b"".join(map(certificate_pem, certificates))
    for path, text in texts.items():
        if not path.is_file() or path.read_bytes() != text:
            write_atomically(path, text, PUBLIC)


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether ``issuer``'s key signed the certificate; dates and constraints are not asked."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _ensure_session(keys: SoftwareKeys, validity: timedelta, moment: datetime) -> None:
    session = keys.session()
    if (
        session is None
        or session.not_valid_after_utc - moment < validity / 2
        or not _is_issued_by(session, keys.boundary.certificate)
    ):
        keys.renew_session(validity, moment)
