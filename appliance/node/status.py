# SPDX-License-Identifier: Apache-2.0
"""The status document: the one thing CLI, console, metrics and fleet read about a process.

One JSON object per process, ``<status_dir>/<name>.json``, replaced atomically about once a second. Readers ignore
fields they do not know. A document older than :data:`STALE_AFTER_S` says only that its writer is not running well.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Final

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.files import GROUP, replace_file

SCHEMA: Final = 1
STALE_AFTER_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong now: the stable reason, what exactly, and what to do."""

    reason: str
    detail: str
    hint: str
    where: str = ""

    @classmethod
    def of(cls, error: BsfgError, where: str) -> Problem:
        """The problem behind an error."""
        return cls(error.reason, error.detail, error.hint, where)


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """The zone's nats-facts as this process sees it."""

    connected: bool = False
    version: str = ""
    durable: bool = False
    connects: int = 0


@dataclass(frozen=True, slots=True)
class StoreStatus:
    """One category of the zone's own facts; counts since the process started.

    :param head: digest of the chain at the last offset, in hex.
    """

    category: str
    last_offset: int = 0
    stored: int = 0
    duplicate: int = 0
    conflict: int = 0
    invalid: int = 0
    head: str = ""


@dataclass(frozen=True, slots=True)
class CrossingReport:
    """One category crossing in one direction, as the dialling side sees it; ``lag`` in facts."""

    name: str
    direction: str
    category: str
    peer: str
    step: str = ""
    epoch: str = ""
    offset: int = 0
    lag: int = 0
    confirmed: int = 0
    facts: int = 0
    pages: int = 0
    gaps: int = 0
    reachable: bool = False
    last_exchange_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """A peer as the serving side sees it.

    :param leaf_age_s: how long its leaf connection is up, if it has one.
    :param attestation: ``fresh``, ``stale``, ``failed``, or empty: it has no enrolled TPM.
    :param attested_s_ago: how old the last evidence is; ``None``: none since the hub started.
    :param silent_since_unix_ms: when it was last heard, if that is too long ago; 0: it is heard. It outlives the hub.
    :param quarantine: ``quarantined``, ``released``, or empty: it never was that the hub knows of.
    :param quarantine_code: why; empty: the evidence was not imported. :param evidence: SHA-256 of it.
    """

    zone: str
    last_call_unix_ms: int = 0
    calls: int = 0
    refused: int = 0
    leaf_age_s: int | None = None
    attestation: str = ""
    attested_s_ago: int | None = None
    silent_since_unix_ms: int = 0
    quarantine: str = ""
    quarantine_code: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class CertificateStatus:
    """One certificate this process depends on.

    :param kind: ``session``, ``device_ca``, ``hub_ca`` or ``local``. :param subject: its common name.
    :param remaining_s: by boundary time; ``None``: that is not known. :param alarm: ``""``, ``soon`` or ``ended``.
    """

    name: str
    kind: str
    subject: str
    ends_at_unix_ms: int
    remaining_s: int | None = None
    alarm: str = ""


@dataclass(frozen=True, slots=True)
class BoundaryStatus:
    """What this process can prove at the boundary now. Local work needs none of it.

    :param notice: a line to be shown loudly; empty on keys held by a TPM.
    :param state: ``ready``, the keeper's state, or the reason code of why nothing can be proven.
    :param time: where boundary time comes from: ``hub_token``, ``wall_clock`` (hubs, and software keys), ``unknown``.
    :param counter: the TPM's quarantine counter. :param commands: TPM commands since the keeper started.
    :param keeper_renewals: sessions that the keeper issued. :param renewals: those that this process took up.
    :param handshakes_refused: by reason code, or ``tls``, ``timeout``, ``no_http2``. Counts since the process started.
    """

    notice: str = ""
    state: str = ""
    time: str = "unknown"
    unix_ms: int | None = None
    floor_unix_ms: int | None = None
    counter: int | None = None
    commands: int = 0
    keeper_renewals: int = 0
    renewals: int = 0
    handshakes_accepted: int = 0
    handshakes_refused: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StatusDocument:
    """What a process says about itself."""

    name: str
    zone: str
    version: str
    pid: int
    ready: bool
    mode: str
    mode_since_unix_ms: int
    mode_changes: int
    updated_at_unix_ms: int
    keys: str
    """``software``, ``swtpm``, ``tpm``; ``keeper``: the keeper has not said yet which."""
    boundary: BoundaryStatus = field(default_factory=BoundaryStatus)
    certificates: tuple[CertificateStatus, ...] = ()
    broker: BrokerStatus = field(default_factory=BrokerStatus)
    stores: tuple[StoreStatus, ...] = ()
    crossings: tuple[CrossingReport, ...] = ()
    peers: tuple[PeerStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    incidents: tuple[Problem, ...] = ()
    schema: int = SCHEMA

    def write(self, directory: Path) -> None:
        """Replace ``<directory>/<name>.json`` atomically."""
        directory.mkdir(parents=True, exist_ok=True)
        replace_file(directory / f"{self.name}.json", json.dumps(asdict(self), indent=1).encode(), GROUP)

    @classmethod
    def read(cls, path: Path) -> StatusDocument:
        """Read and parse. :raises UnavailableError: ``not_ready``: not there, or not a status document."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            document: StatusDocument = _build(cls, values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UnavailableError(Reason.NOT_READY, f"{path}: {error}") from error
        if document.schema != SCHEMA:
            raise UnavailableError(Reason.NOT_READY, f"{path}: schema {document.schema}, this program reads {SCHEMA}")
        return document

    @property
    def age_s(self) -> float:
        """Seconds since it was written."""
        return max(0.0, time.time() - self.updated_at_unix_ms / 1000)


_PARTS: Final[dict[str, Any]] = {
    "boundary": BoundaryStatus,
    "certificates": CertificateStatus,
    "broker": BrokerStatus,
    "stores": StoreStatus,
    "crossings": CrossingReport,
    "peers": PeerStatus,
    "problems": Problem,
    "incidents": Problem,
}


def _build(kind: Any, values: dict[str, Any]) -> Any:
    """A frozen value from a JSON object; fields nobody knows are left out."""
    known: dict[str, Any] = {}
    for item in fields(kind):
        if item.name not in values:
            continue
        value = values[item.name]
        part = _PARTS.get(item.name) if kind is StatusDocument else None
        if part is None:
            known[item.name] = value
        elif isinstance(value, list):
            known[item.name] = tuple(_build(part, entry) for entry in value)
        else:
            known[item.name] = _build(part, value)
    return kind(**known)


def hint_of(reason: str) -> str:
    """The hint for a reason code read from elsewhere; empty when this program does not know it."""
    try:
        return CATALOGUE[Reason(reason)].hint
    except ValueError:
        return ""
