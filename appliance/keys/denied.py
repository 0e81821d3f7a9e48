# SPDX-License-Identifier: Apache-2.0
"""The deny list: device CA certificates that prove no connection any more. What they signed before stays signed.

``denied.json`` has one form only (:mod:`appliance.keys.documents`), format ``bsfg-denied-1``: ``denied`` is a list of
entries, sorted by certificate, none twice. ``unix_ms`` is when it was entered, by the hub's clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.documents import hex_bytes, parse_document, render_document
from appliance.keys.files import PUBLIC, locked, write_atomically

DENIED_FORMAT: Final = "bsfg-denied-1"
DENIED_BYTES: Final = 4 * 1024 * 1024
REASON_CHARACTERS: Final = 256
_FIELDS: Final = {"denied": list}
_ENTRY: Final = {"certificate": str, "zone": str, "reason": str, "unix_ms": int}


@dataclass(frozen=True, slots=True)
class Denial:
    """One denied device CA certificate.

    :param certificate: SHA-256 of the certificate (DER), lower-case hex. :param reason: an operator's words.
    """

    certificate: str
    zone: ZoneId
    reason: str
    unix_ms: int

    def __post_init__(self) -> None:
        if len(self.reason) > REASON_CHARACTERS or not self.reason.isprintable() or not 0 <= self.unix_ms < 2**53:
            raise RefusedError(Reason.BAD_DOCUMENT, f"reason: at most {REASON_CHARACTERS} printable characters")

    @classmethod
    def of(cls, certificate: x509.Certificate, zone: ZoneId, reason: str, unix_ms: int) -> Denial:
        """The denial of a certificate. :raises RefusedError: ``bad_document``: the reason is too long."""
        return cls(certificate.fingerprint(hashes.SHA256()).hex(), zone, reason, unix_ms)


def render_denied(denials: Iterable[Denial]) -> bytes:
    """The one form of a deny list."""
    entries = sorted({denial.certificate: asdict(denial) for denial in denials}.items())
    return render_document({"format": DENIED_FORMAT, "denied": [entry for _, entry in entries]})


def parse_denied(data: bytes) -> tuple[Denial, ...]:
    """Read a deny list. :raises RefusedError: ``bad_document``: it is not one, or not in its one form."""
    values = parse_document(data, DENIED_FORMAT, _FIELDS, DENIED_BYTES)
    denials = tuple(_entry(entry) for entry in values["denied"])
    if render_denied(denials) != data:
        raise RefusedError(Reason.BAD_DOCUMENT, "the entries are not sorted, or one stands there twice")
    return denials


def read_denied(path: Path) -> tuple[Denial, ...]:
    """The deny list in a file; empty when there is none.

    :raises RefusedError: ``bad_document``.
    :raises OSError: as the operating system says.
    """
    try:
        return parse_denied(path.read_bytes())
    except FileNotFoundError:
        return ()


def deny(path: Path, *denials: Denial) -> None:
    """Enter denials into a deny list, durably; one that stands there stays as it is. Two calls at once take turns.

    :raises RefusedError: ``bad_document``: what is there is no deny list; nothing was written.
    :raises OSError: as the operating system says.
    """
    with locked(path.parent):
        kept = read_denied(path)
        known = {denial.certificate for denial in kept}
        new = [denial for denial in denials if denial.certificate not in known]
        write_atomically(path, render_denied([*kept, *new]), PUBLIC)


def allow(path: Path, certificates: Iterable[str]) -> None:
    """Take certificates (SHA-256, hex) off a deny list; raises as :func:`deny`."""
    with locked(path.parent):
        gone = set(certificates)
        write_atomically(path, render_denied(d for d in read_denied(path) if d.certificate not in gone), PUBLIC)


def _entry(entry: Any) -> Denial:
    if not isinstance(entry, dict) or {name: type(value) for name, value in entry.items()} != _ENTRY:
        raise RefusedError(Reason.BAD_DOCUMENT, f"each entry has exactly {', '.join(_ENTRY)}")
    try:
        hex_bytes(entry["certificate"], 32)
        return Denial(entry["certificate"], parse_zone(entry["zone"]), entry["reason"], entry["unix_ms"])
    except (ValueError, BsfgError) as error:
        raise RefusedError(Reason.BAD_DOCUMENT, f"entry of {entry['certificate'][:64]}: {error}") from error
