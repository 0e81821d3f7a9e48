# SPDX-License-Identifier: Apache-2.0
"""The evidence of a quarantine: one document that says what the box saw of itself, and a seal by its TPM. Pure.

The **bundle** is canonical JSON (RFC 8785) and a newline, at most 4 MiB; any text tool shows it. Its SHA-256 is what
both operators sign over. The **seal** is a second, small document: a quote whose nonce is that digest, and the
quarantine counter and the boundary key, certified over it. A bundle that differs in one bit has no seal.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from functools import cached_property
from typing import Any, Final, Self

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.documents import parse_document, render_document
from appliance.keys.keeper.port import Latched
from appliance.keys.keeper.values import from_json, to_json
from appliance.keys.tpm.public import Attestation, Digest, sha256
from appliance.watchdog.probing import Reading
from appliance.watchdog.quarantine.case import Case

FORMAT: Final = "bsfg-quarantine-evidence-1"
SEAL_FORMAT: Final = "bsfg-quarantine-seal-1"
BUNDLE_BYTES: Final = 4 * 1024 * 1024
SEAL_BYTES: Final = 16 * 1024


class SourceState(StrEnum):
    """What became of a source."""

    PRESENT = "present"
    CUT = "cut"
    """It had more than there is room for; the newest is there."""
    MISSING = "missing"
    """It could not be read."""
    WITHHELD = "withheld"
    """It held what looks like a secret."""


@dataclass(frozen=True, slots=True)
class SourceNote:
    """What became of one source. :param detail: why it is not whole, in words."""

    name: str
    state: SourceState
    detail: str = ""


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One entry of the system's journal.

    :param at_us: Unix microseconds by the wall clock. :param unit: the service, or ``kernel`` or ``audit``.
    :param priority: of syslog: 0 emergency ... 7 debug. :param text: cleaned of secrets, and cut.
    """

    at_us: int
    unit: str
    priority: int
    text: str


@dataclass(frozen=True, slots=True)
class Counted:
    """What a rule of the firewall has counted since it was loaded."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class LogHead:
    """How far one log of facts has come, as the agent says.

    :param name: of the crossing or the store. :param offset: the last fact's. :param confirmed: what the peer has
        signed for. :param head: digest of the chain there, in hex; empty: the agent does not say it.
    """

    name: str
    category: str
    epoch: str
    offset: int
    confirmed: int
    head: str


@dataclass(frozen=True, slots=True)
class Times:
    """When the evidence was gathered. :param unix_ms: by the wall clock, which may be wrong.

    :param boottime_ms: since the machine started. The TPM's own clock stands in the quote, signed.
    """

    unix_ms: int
    boottime_ms: int


@dataclass(frozen=True)
class Bundle:
    """What a quarantined box shows its operators.

    :param number: of this box's evidence, from 1 on. :param previous: SHA-256 (hex) of the one before; empty: none.
    :param case: the case document, as the latch's certificate names it.
    :param latch: counter and certificate over the case's digest; ``None``: the key was locked before the case.
    :param readings: the last one of each probe, when the evidence was gathered.
    :param image: what the running image says of itself. :param files: SHA-256 (hex) of configuration files.
    :param firewall: by rule, ``chain:control``; and ``set:NAME`` with its number of elements as ``packets``.
    :param sources: what became of each source. :param withheld: texts in which something was withheld.
    """

    zone: ZoneId
    number: int
    previous: str
    case: bytes
    latch: Latched | None
    boot_id: str
    times: Times
    readings: tuple[Reading, ...] = ()
    journal: tuple[JournalLine, ...] = ()
    firewall: Mapping[str, Counted] = field(default_factory=dict)
    logs: tuple[LogHead, ...] = ()
    image: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    firmware_log: bytes = b""
    runtime_log: bytes = b""
    sources: tuple[SourceNote, ...] = ()
    withheld: int = 0

    def render(self) -> bytes:
        """The one form of this bundle."""
        values: dict[str, Any] = {each.name: to_json(getattr(self, each.name)) for each in fields(self)}
        latch = [to_json(self.latch)] if self.latch is not None else []
        return render_document({**values, "format": FORMAT, "case": json.loads(self.case), "latch": latch})

    @cached_property
    def opened(self) -> Case:
        """The case. :raises RefusedError: ``bad_document``."""
        return Case.parse(self.case)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a bundle; nothing of it is proven yet. :raises RefusedError: ``bad_document``: not in its one form."""
        values = parse_document(data, FORMAT, _FIELDS, BUNDLE_BYTES)
        try:
            case, latch = render_document(values.pop("case")), from_json(tuple[Latched, ...], values.pop("latch"))
            if len(latch) > 1:
                raise ValueError("latched twice")
            known = {name: from_json(_KINDS[name], value) for name, value in values.items()}
            bundle = cls(case=case, latch=latch[0] if latch else None, **known)
            parse_zone(bundle.zone)
            if bundle.opened.zone != bundle.zone:
                raise ValueError("its case is of another zone")
        except (ValueError, TypeError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"evidence: {error}") from error
        if bundle.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, "evidence: not in its one form")
        return bundle


@dataclass(frozen=True, slots=True)
class Seal:
    """What the TPM states over a bundle.

    :param bundle: SHA-256 of the bundle; nonce of all that follows.
    :param pcrs: values of the SHA-256 bank that the quote is over.
    :param counter: certificate of the quarantine counter. :param key: certificate of the boundary key.
    """

    zone: ZoneId
    bundle: Digest
    quote: Attestation
    pcrs: Mapping[int, bytes]
    counter: Attestation
    key: Attestation

    def render(self) -> bytes:
        """The one form of this seal."""
        values = {each.name: to_json(getattr(self, each.name)) for each in fields(self)}
        return render_document({**values, "format": SEAL_FORMAT, "bundle": self.bundle.hex()})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a seal; nothing of it is proven yet. :raises RefusedError: ``bad_document``: not in its one form."""
        values = parse_document(data, SEAL_FORMAT, _SEAL_FIELDS, SEAL_BYTES)
        try:
            bundle = Digest(bytes.fromhex(values.pop("bundle")))
            seal = cls(bundle=bundle, **{name: from_json(_SEAL_KINDS[name], value) for name, value in values.items()})
            parse_zone(seal.zone)
        except (ValueError, TypeError, BsfgError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"seal: {error}") from error
        if seal.render() != data:
            raise RefusedError(Reason.BAD_DOCUMENT, "seal: not in its one form")
        return seal


def digest_of(bundle: bytes) -> Digest:
    """What operators sign over: SHA-256 of the bundle's file."""
    return sha256(bundle)


_TEXTS: Final = ("zone", "number", "previous", "boot_id", "firmware_log", "runtime_log", "withheld")
_LISTS: Final = ("latch", "readings", "journal", "logs", "sources")
_OBJECTS: Final = ("case", "times", "firewall", "image", "files")
_FIELDS: Final[Mapping[str, type]] = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_LISTS, list),
    **dict.fromkeys(_OBJECTS, dict),
}
_SEAL_FIELDS: Final[Mapping[str, type]] = {
    **dict.fromkeys(("zone", "bundle"), str),
    **dict.fromkeys(("quote", "pcrs", "counter", "key"), dict),
}
_KINDS: Final[Mapping[str, Any]] = {
    "zone": ZoneId,
    "number": int,
    "previous": str,
    "boot_id": str,
    "times": Times,
    "readings": tuple[Reading, ...],
    "journal": tuple[JournalLine, ...],
    "firewall": Mapping[str, Counted],
    "logs": tuple[LogHead, ...],
    "image": Mapping[str, str],
    "files": Mapping[str, str],
    "firmware_log": bytes,
    "runtime_log": bytes,
    "sources": tuple[SourceNote, ...],
    "withheld": int,
}
_SEAL_KINDS: Final[Mapping[str, Any]] = {
    "zone": ZoneId,
    "quote": Attestation,
    "pcrs": Mapping[int, bytes],
    "counter": Attestation,
    "key": Attestation,
}
