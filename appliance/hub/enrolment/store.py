# SPDX-License-Identifier: Apache-2.0
"""What a hub has decided about boxes: one SQLite file, changed in transactions, so it is always before or after.

A decision is durable here before anything follows from it. The files that connections are checked against (the
registry) are written from here and can be written again at any time. Blocking; a store belongs to one thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.boundary.errors import IntegrityError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.box import EnrolledRecord
from appliance.keys.certificates import certificate_der
from appliance.keys.denied import REASON_CHARACTERS, Denial
from appliance.keys.enrolment.documents import Waits
from appliance.keys.enrolment.rules import BoxState, Known

VERSION: Final = 2
PENDING_LIMIT: Final = 1000
"""Boxes that may wait for a decision at once; each has a TPM of a known vendor, but whose it is nobody knows."""
BUSY_S: Final = 10.0
_SCHEMA: Final = """
CREATE TABLE box (
    fingerprint TEXT PRIMARY KEY, zone TEXT NOT NULL, state TEXT NOT NULL, record BLOB NOT NULL,
    device_ca BLOB NOT NULL, note TEXT NOT NULL, changed_unix_ms INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX holder ON box (zone) WHERE state IN ('enrolled', 'quarantined');
CREATE TABLE pending (
    fingerprint TEXT PRIMARY KEY, zone TEXT NOT NULL, waits TEXT NOT NULL, record BLOB NOT NULL,
    asked_unix_ms INTEGER NOT NULL) STRICT;
CREATE TABLE approval (
    fingerprint TEXT PRIMARY KEY, zone TEXT NOT NULL, unix_ms INTEGER NOT NULL) STRICT;
CREATE TABLE voucher (
    serial TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, unix_ms INTEGER NOT NULL) STRICT;
CREATE TABLE reference (
    device BLOB PRIMARY KEY, fingerprint TEXT NOT NULL) STRICT;
CREATE TABLE device_ca (
    sequence INTEGER PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, zone TEXT NOT NULL, fingerprint TEXT NOT NULL,
    der BLOB NOT NULL, denied TEXT, denied_unix_ms INTEGER) STRICT;
"""
_QUARANTINES: Final = """
CREATE TABLE quarantine (
    fingerprint TEXT NOT NULL, counter INTEGER NOT NULL, code TEXT NOT NULL, evidence TEXT NOT NULL,
    opened_unix_ms INTEGER NOT NULL, known_unix_ms INTEGER NOT NULL, released_unix_ms INTEGER NOT NULL,
    PRIMARY KEY (fingerprint, counter)) STRICT;
"""
"""Since version 2."""


@dataclass(frozen=True, slots=True)
class Box:
    """A TPM that was decided about. :param record: of its last enrolment; ``None``: it was refused before any.

    :param device_ca: its certificate (DER), empty if it never got one. :param note: an operator's words.
    """

    fingerprint: str
    zone: ZoneId
    state: BoxState
    record: EnrolledRecord | None
    device_ca: bytes
    note: str
    changed_unix_ms: int


@dataclass(frozen=True, slots=True)
class Quarantine:
    """What is known of one quarantine of a TPM.

    :param counter: the TPM's, which names it. :param code: why; empty: the evidence was not imported yet.
    :param evidence: SHA-256 (hex) of the bundle, by import or by a release; empty: not known.
    :param opened_unix_ms: by the box's wall clock.
    :param known_unix_ms: when the hub learnt of it. :param released_unix_ms: when it saw the release; 0: not yet.
    """

    fingerprint: str
    counter: int
    code: str = ""
    evidence: str = ""
    opened_unix_ms: int = 0
    known_unix_ms: int = 0
    released_unix_ms: int = 0


@dataclass(frozen=True, slots=True)
class PendingBox:
    """A box that proved itself and waits."""

    fingerprint: str
    zone: ZoneId
    waits: Waits
    record: EnrolledRecord
    asked_unix_ms: int


class EnrolmentStore:
    """The hub's file of boxes; it is the :class:`~appliance.keys.enrolment.rules.Knowledge` of the decision."""

    def __init__(self, path: Path) -> None:
        """:raises UnavailableError: ``office_unusable``: the file cannot be opened.

        :raises IntegrityError: ``office_unusable``: it is of a later version, or no such file.
        """
        try:
            self._db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
        except sqlite3.DatabaseError as error:
            raise UnavailableError(Reason.OFFICE_UNUSABLE, f"{path}: {error}") from error
        try:
            self._db.execute("PRAGMA synchronous = EXTRA")  # a commit is durable, its journal's removal too
            version = self._version()
            if version in {0, 1}:
                self._make()
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise UnavailableError(Reason.OFFICE_UNUSABLE, f"{path}: {error}") from error
        if version not in {0, 1, VERSION}:
            self._db.close()
            raise IntegrityError(Reason.OFFICE_UNUSABLE, f"{path}: version {version}, this program knows {VERSION}")

    def _version(self) -> int:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        return int(version)

    def _make(self) -> None:
        with self.changing():
            version = self._version()  # somebody else may have been quicker
            schema = {0: _SCHEMA + _QUARANTINES, 1: _QUARANTINES}.get(version, "")
            for statement in schema.split(";"):
                self._db.execute(statement)
            self._db.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def changing(self, *, keep: bool = True) -> Iterator[None]:
        """All changes in the block happen, or none; nobody else changes anything meanwhile.

        :param keep: false: undo them at the end of the block, too; whether they could be made is known then.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT" if keep else "ROLLBACK")

    # -- what the decision asks ---------------------------------------------------------------------------------------

    def box(self, fingerprint: str) -> Known | None:
        """See :class:`~appliance.keys.enrolment.rules.Knowledge`."""
        found = self.find(fingerprint)
        if found is None:
            return None
        record = found.record
        if record is None:
            return Known(fingerprint, found.zone, found.state)
        public = record.request.boundary_public
        return Known(fingerprint, found.zone, found.state, record.counter, record.request.policy, public)

    def holder(self, zone: ZoneId) -> str | None:
        """See :class:`~appliance.keys.enrolment.rules.Knowledge`."""
        return self._text(
            "SELECT fingerprint FROM box WHERE zone = ? AND state IN ('enrolled', 'quarantined')", zone
        ) or self._text("SELECT fingerprint FROM pending WHERE zone = ? AND waits = 'authority'", zone)

    def approved(self, fingerprint: str) -> ZoneId | None:
        """See :class:`~appliance.keys.enrolment.rules.Knowledge`."""
        zone = self._text("SELECT zone FROM approval WHERE fingerprint = ?", fingerprint)
        return parse_zone(zone) if zone is not None else None

    def certifying(self, zone: ZoneId, fingerprint: str) -> bytes | None:
        """See :class:`~appliance.keys.enrolment.rules.Knowledge`."""
        waiting = (each for each in self.pending() if each.waits is Waits.AUTHORITY)
        found = next((each for each in waiting if (each.fingerprint, each.zone) == (fingerprint, zone)), None)
        return found.record.request.boundary_public if found is not None else None

    def voucher_user(self, serial: str) -> str | None:
        """See :class:`~appliance.keys.enrolment.rules.Knowledge`."""
        return self._text("SELECT fingerprint FROM voucher WHERE serial = ?", serial)

    def reference_user(self, device: bytes) -> str | None:
        """See :class:`~appliance.keys.enrolment.rules.Knowledge`."""
        return self._text("SELECT fingerprint FROM reference WHERE device = ?", device)

    def _text(self, query: str, *values: str | bytes) -> str | None:
        row = self._db.execute(query, values).fetchone()
        return str(row[0]) if row is not None else None

    # -- lists --------------------------------------------------------------------------------------------------------

    def boxes(self) -> list[Box]:
        """All that was decided about, by zone."""
        return [_box(row) for row in self._db.execute("SELECT * FROM box ORDER BY zone, changed_unix_ms")]

    def find(self, fingerprint: str) -> Box | None:
        """One TPM."""
        row = self._db.execute("SELECT * FROM box WHERE fingerprint = ?", (fingerprint,)).fetchone()
        return _box(row) if row is not None else None

    def of_zone(self, zone: ZoneId) -> Box | None:
        """The box that has a zone: enrolled or in quarantine."""
        query = "SELECT * FROM box WHERE zone = ? AND state IN ('enrolled', 'quarantined')"
        row = self._db.execute(query, (zone,)).fetchone()
        return _box(row) if row is not None else None

    def pending(self) -> list[PendingBox]:
        """All that wait, the first one first."""
        return [_pending(row) for row in self._db.execute("SELECT * FROM pending ORDER BY asked_unix_ms")]

    def approvals(self) -> list[tuple[str, ZoneId]]:
        """Fingerprint and zone of the approvals that no box has used yet."""
        rows = self._db.execute("SELECT fingerprint, zone FROM approval ORDER BY unix_ms")
        return [(fingerprint, parse_zone(zone)) for fingerprint, zone in rows]

    def device_cas(self) -> dict[ZoneId, tuple[x509.Certificate, ...]]:
        """All device CAs ever given out, by zone, the newest last."""
        found: dict[ZoneId, tuple[x509.Certificate, ...]] = {}
        for zone, der in self._db.execute("SELECT zone, der FROM device_ca ORDER BY sequence"):
            found[parse_zone(zone)] = (*found.get(parse_zone(zone), ()), x509.load_der_x509_certificate(der))
        return found

    def denials(self) -> list[Denial]:
        """The device CAs that count no more."""
        rows = self._db.execute("SELECT sha256, zone, denied, denied_unix_ms FROM device_ca WHERE denied IS NOT NULL")
        return [Denial(digest, parse_zone(zone), reason, unix_ms) for digest, zone, reason, unix_ms in rows]

    def quarantines(self) -> dict[str, Quarantine]:
        """The last quarantine of each TPM that had any, by fingerprint."""
        rows = self._db.execute("SELECT * FROM quarantine ORDER BY fingerprint, counter")
        return {row[0]: Quarantine(*row) for row in rows}

    # -- changes; inside :meth:`changing` -----------------------------------------------------------------------------

    def wait(self, record: EnrolledRecord, waits: Waits, unix_ms: int) -> None:
        """A box proved itself and waits. :raises UnavailableError: ``busy``: too many do."""
        others = "SELECT count(*) FROM pending WHERE fingerprint != ?"
        (count,) = self._db.execute(others, (record.request.fingerprint,)).fetchone()
        if count >= PENDING_LIMIT and waits is Waits.APPROVAL:
            raise UnavailableError(Reason.BUSY, f"{count} boxes wait for approval")
        request = record.request
        self._db.execute(
            "INSERT INTO pending VALUES (?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET"
            " zone = excluded.zone, waits = excluded.waits, record = excluded.record",
            (request.fingerprint, request.zone, waits.value, record.render(), unix_ms),
        )

    def forget_pending(self, fingerprint: str) -> None:
        """A box waits no more."""
        self._db.execute("DELETE FROM pending WHERE fingerprint = ?", (fingerprint,))

    def approve(self, fingerprint: str, zone: ZoneId, unix_ms: int) -> None:
        """An operator lets a TPM in for a zone, once; also one that was refused, revoked or replaced before."""
        self._db.execute("INSERT OR REPLACE INTO approval VALUES (?, ?, ?)", (fingerprint, zone, unix_ms))

    def forget_approval(self, fingerprint: str) -> None:
        """An approval was used, or taken back."""
        self._db.execute("DELETE FROM approval WHERE fingerprint = ?", (fingerprint,))

    def use_voucher(self, serial: str, fingerprint: str, unix_ms: int) -> None:
        """A voucher was used."""
        self._db.execute("INSERT INTO voucher VALUES (?, ?, ?)", (serial, fingerprint, unix_ms))

    def enrol(self, record: EnrolledRecord, device_ca: x509.Certificate, unix_ms: int) -> None:
        """A box has its certificate. Those of its former keys count no more."""
        request, der = record.request, certificate_der(device_ca)
        known = self.box(request.fingerprint)
        if known is not None and (known.boundary_public, known.zone) != (request.boundary_public, request.zone):
            self.deny_device_cas(request.fingerprint, "the box has a new key", unix_ms)
        self.forget_pending(request.fingerprint)
        self.forget_approval(request.fingerprint)
        values = (request.fingerprint, request.zone, BoxState.ENROLLED.value, record.render(), der, "", unix_ms)
        self._db.execute(
            "INSERT INTO box VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET zone = excluded.zone,"
            " state = excluded.state, record = excluded.record, device_ca = excluded.device_ca, note = excluded.note,"
            " changed_unix_ms = excluded.changed_unix_ms",
            values,
        )
        self._db.execute(
            "INSERT OR REPLACE INTO reference VALUES (?, ?)", (request.policy.policy.device, request.fingerprint)
        )
        self._db.execute(
            "INSERT INTO device_ca (sha256, zone, fingerprint, der) VALUES (?, ?, ?, ?)",
            (device_ca.fingerprint(hashes.SHA256()).hex(), request.zone, request.fingerprint, der),
        )

    def release(self, record: EnrolledRecord, unix_ms: int) -> None:
        """A box came back from quarantine with the key it has."""
        self._db.execute(
            "UPDATE box SET state = ?, record = ?, note = '', changed_unix_ms = ? WHERE fingerprint = ?",
            (BoxState.ENROLLED.value, record.render(), unix_ms, record.request.fingerprint),
        )
        self.end_quarantines(record.request.fingerprint, record.counter, unix_ms)

    def note_quarantine(self, found: Quarantine) -> None:
        """A quarantine is known of. What was known of it already stays, but for what was empty."""
        self._db.execute(
            "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (fingerprint, counter) DO UPDATE SET"
            " code = CASE code WHEN '' THEN excluded.code ELSE code END,"
            " evidence = CASE evidence WHEN '' THEN excluded.evidence ELSE evidence END,"
            " opened_unix_ms = CASE opened_unix_ms WHEN 0 THEN excluded.opened_unix_ms ELSE opened_unix_ms END",
            (
                found.fingerprint,
                found.counter,
                found.code,
                found.evidence,
                found.opened_unix_ms,
                found.known_unix_ms,
                found.released_unix_ms,
            ),
        )

    def end_quarantines(self, fingerprint: str, counter: int, unix_ms: int) -> None:
        """A release for this counter was seen; it ends that quarantine, and those before it."""
        self._db.execute(
            "UPDATE quarantine SET released_unix_ms = ?"
            " WHERE fingerprint = ? AND counter <= ? AND released_unix_ms = 0",
            (unix_ms, fingerprint, counter),
        )

    def refuse(self, fingerprint: str, zone: ZoneId, note: str, unix_ms: int) -> None:
        """An operator refuses a TPM that was never enrolled."""
        self.forget_pending(fingerprint)
        self.forget_approval(fingerprint)
        values = (fingerprint, zone, BoxState.DENIED.value, b"", b"", _note(note), unix_ms)
        self._db.execute("INSERT OR IGNORE INTO box VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def mark(self, fingerprint: str, state: BoxState, note: str, unix_ms: int) -> None:
        """A TPM that was enrolled gets another state."""
        self._db.execute(
            "UPDATE box SET state = ?, note = ?, changed_unix_ms = ? WHERE fingerprint = ?",
            (state.value, _note(note), unix_ms, fingerprint),
        )

    def deny_device_cas(self, fingerprint: str, note: str, unix_ms: int) -> None:
        """The device CAs of a TPM count no more."""
        self._db.execute(
            "UPDATE device_ca SET denied = ?, denied_unix_ms = ? WHERE fingerprint = ? AND denied IS NULL",
            (_note(note), unix_ms, fingerprint),
        )


def _note(text: str) -> str:
    """An operator's words, as the deny list takes them. :raises RefusedError: ``bad_input``."""
    if len(text) > REASON_CHARACTERS or not text.isprintable():
        raise RefusedError(Reason.BAD_INPUT, f"a reason has at most {REASON_CHARACTERS} printable characters")
    return text


def _box(row: tuple[str, str, str, bytes, bytes, str, int]) -> Box:
    fingerprint, zone, state, record, device_ca, note, changed = row
    found = EnrolledRecord.parse(record) if record else None
    return Box(fingerprint, parse_zone(zone), BoxState(state), found, device_ca, note, changed)


def _pending(row: tuple[str, str, str, bytes, int]) -> PendingBox:
    fingerprint, zone, waits, record, asked = row
    return PendingBox(fingerprint, parse_zone(zone), Waits(waits), EnrolledRecord.parse(record), asked)
