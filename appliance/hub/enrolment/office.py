# SPDX-License-Identifier: Apache-2.0
"""The enrolment office: answers boxes' documents, and carries out what operators decide.

Each action is durable in the store before anything follows from it: certificates, files of the registry. What follows
can be done again, by the next action or by :meth:`EnrolmentOffice.settle`; so it may be killed anywhere. Several
processes may work on one office at once (the hub, and an operator's command): they take turns. Blocking.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.authority import DeviceAuthority
from appliance.hub.enrolment.box import EnrolledRecord
from appliance.hub.enrolment.folder import EnrolmentConfig, EnrolmentFolder, open_authority
from appliance.hub.enrolment.store import Box, EnrolmentStore, PendingBox, Quarantine
from appliance.keys.certificates import certificate_der, certificate_pem
from appliance.keys.denied import render_denied
from appliance.keys.enrolment.boxside import write_registry
from appliance.keys.enrolment.documents import (
    EnrolRequest,
    Grant,
    Pending,
    Proof,
    Refusal,
    Waits,
    is_request,
)
from appliance.keys.enrolment.hubside import (
    NETWORK_VALIDITY_MS,
    ProvenBox,
    SiteDemands,
    challenge,
    check_proof,
    read_release,
)
from appliance.keys.enrolment.rules import BoxState, Decision, admit, check_claim, decide, takes_voucher
from appliance.keys.enrolment.voucher import Voucher
from appliance.keys.files import PUBLIC, locked, write_atomically
from appliance.keys.registry import Registry
from appliance.keys.release import Release

RENEW_AFTER: Final = 2 / 3
"""The part of a device CA certificate's life after which a box that asks again gets a new one for the same key."""
_log = logging.getLogger(__name__)


def wall_ms() -> int:
    """The hub's wall clock, which is boundary time, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


class EnrolmentOffice:
    """One hub's office.

    :param ask: for the passphrase of the hub CA's key, when it is needed and no file has it.
    :param now_ms: the hub's wall clock. :param hook: called with the name of each durable step; tests end there.
    """

    def __init__(
        self,
        path: Path,
        *,
        ask: Callable[[], str | None] = lambda: None,
        now_ms: Callable[[], int] = wall_ms,
        hook: Callable[[str], None] = lambda _: None,
    ) -> None:
        """:raises UnavailableError: ``office_unusable``, ``authority_unavailable``.

        :raises RefusedError: ``bad_input``: the configuration.
        """
        self.folder = EnrolmentFolder(path)
        self.config = EnrolmentConfig.load(self.folder)
        self._authority: DeviceAuthority = open_authority(self.folder, self.config, ask)
        self._now_ms = now_ms
        self._hook = hook
        self._problems: dict[str, BsfgError] = {}
        self._site: tuple[object, SiteDemands] | None = None

    @contextmanager
    def _store(self) -> Iterator[EnrolmentStore]:
        """The store, for this process alone."""
        with locked(self.folder.path):
            store = EnrolmentStore(self.folder.database)
            try:
                yield store
            finally:
                store.close()

    @contextmanager
    def _changing(self, store: EnrolmentStore, step: str, *, dry_run: bool = False) -> Iterator[None]:
        """A durable step. :param dry_run: do it, and undo it."""
        self._hook(f"before {step}")
        with store.changing(keep=not dry_run):
            yield
            self._hook(f"in {step}")
        self._hook(f"after {step}")

    # -- what boxes ask -----------------------------------------------------------------------------------------------

    def answer(self, document: bytes, validity_ms: int = NETWORK_VALIDITY_MS) -> bytes:
        """One step of the dialogue. A refusal is an answer too; what is wrong with this hub itself raises.

        :param validity_ms: how long a challenge can be answered.
        :raises UnavailableError: ``busy``; ``office_unusable``: this office's files cannot be used.
        """
        site = self._demands()
        try:
            if is_request(document):
                return self._answer_request(document, site, validity_ms)
            return self._answer_proof(document, site)
        except (RefusedError, DeniedError) as error:
            _log.warning("enrolment refused: %s", error)
            return Refusal.of(error).render()

    def _demands(self) -> SiteDemands:
        """What the site demands, read again when a file changed.

        :raises UnavailableError: ``office_unusable``: its files cannot be read.
        """
        try:
            stamp = self.folder.stamp()
            if self._site is None or self._site[0] != stamp:
                self._site = stamp, self.folder.demands()
        except (BsfgError, OSError) as error:
            raise UnavailableError(Reason.OFFICE_UNUSABLE, str(error)) from error
        return self._site[1]

    def _answer_request(self, document: bytes, site: SiteDemands, validity_ms: int) -> bytes:
        request = EnrolRequest.parse(document)
        site.vendors.check(request.ek_certificate, request.ek_public)
        with self._store() as store:
            check_claim(store, request.zone, request.fingerprint)
            if request.voucher and takes_voucher(store, request.zone, request.fingerprint):
                self._admit(store, request)
        key = self.folder.read_token_key()
        return challenge(request, document, self.config.zone, key, self._now_ms(), validity_ms).render()

    def _answer_proof(self, document: bytes, site: SiteDemands) -> bytes:
        proof = Proof.parse(document)
        box = check_proof(proof, site, self.folder.read_token_key(), self._now_ms())
        with self._store() as store:
            decision = decide(store, box)
            serial = None
            if decision is Decision.ASK and box.request.voucher:
                serial = self._admit(store, box.request)
                decision = Decision.ENROL
            if decision is Decision.GRANT_AGAIN:
                self._welcome_back(store, box)
                if self._is_due(store, box.fingerprint):
                    self._enter(store, box, Waits.AUTHORITY, None)
            elif decision is not Decision.WAIT:
                self._enter(store, box, Waits.APPROVAL if decision is Decision.ASK else Waits.AUTHORITY, serial)
            self._settle(store)
            return self._outcome(store, box)

    def _welcome_back(self, store: EnrolmentStore, box: ProvenBox) -> None:
        """A box that was released stands at another counter, and under other PCRs, from now on."""
        if box.released is not None:
            with self._changing(store, "released"):
                store.release(EnrolledRecord.of(box), self._now_ms())

    def _is_due(self, store: EnrolmentStore, fingerprint: str) -> bool:
        """Whether the device CA certificate of an enrolled box is past most of its life."""
        found = store.find(fingerprint)
        if found is None or not found.device_ca:
            return False
        certificate = x509.load_der_x509_certificate(found.device_ca)
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return self._now() >= begin + (end - begin) * RENEW_AFTER

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._now_ms() / 1000, UTC)

    def _admit(self, store: EnrolmentStore, request: EnrolRequest) -> str:
        """The serial of the voucher that lets this box in. :raises DeniedError: why it does not."""
        voucher = Voucher.parse(request.voucher)
        operators = self.folder.voucher_operators()
        admit(store, voucher, operators, request.zone, request.fingerprint, self._now_ms())
        return voucher.serial

    def _enter(self, store: EnrolmentStore, box: ProvenBox, waits: Waits, serial: str | None) -> None:
        with self._changing(store, "wait"):
            store.wait(EnrolledRecord.of(box), waits, self._now_ms())
            if serial is not None:
                store.use_voucher(serial, box.fingerprint, self._now_ms())
            if waits is Waits.AUTHORITY:
                store.forget_approval(box.fingerprint)
        _log.info("box %s for zone %s waits for %s", box.fingerprint, box.zone, waits)

    def _outcome(self, store: EnrolmentStore, box: ProvenBox) -> bytes:
        """What the box is told: the grant for this very key, or whom it waits for."""
        found = store.find(box.fingerprint)
        public = found.record.request.boundary_public if found is not None and found.record is not None else b""
        if found is None or found.state is not BoxState.ENROLLED or public != box.request.boundary_public:
            waiting = next((each for each in store.pending() if each.fingerprint == box.fingerprint), None)
            if waiting is None:
                raise DeniedError(Reason.BOX_DENIED, f"TPM {box.fingerprint[:16]}…")
            return Pending(box.zone, box.fingerprint, waiting.waits).render()
        zones = store.device_cas()
        shown = {
            zone: tuple(map(certificate_der, zones[zone])) for zone in (self.config.zone, box.zone) if zone in zones
        }
        denied = render_denied(denial for denial in store.denials() if denial.zone in shown)
        hub_ca = certificate_der(self._authority.hub_ca)
        every = self.config.attest_every_s
        return Grant(box.zone, self.config.zone, found.device_ca, hub_ca, shown, denied, every).render()

    # -- what operators decide ----------------------------------------------------------------------------------------

    def approve(self, fingerprint: str, zone: ZoneId | None = None, *, dry_run: bool = False) -> Box | None:
        """Let a TPM in: now if it waits, else when it asks. Also one that was denied, revoked or replaced before.

        :param fingerprint: at least 8 digits of one that is known; all 64 of one that is not.
        :param zone: needed for a TPM that does not wait.
        :return: the enrolled box; ``None``: it has yet to ask, or the site's PKI to sign.
        :raises RefusedError: ``unknown_box``. :raises DeniedError: ``zone_taken``, ``box_of_other_zone``.
        """
        with self._store() as store:
            full = self._full(store, fingerprint)
            waiting = next((each for each in store.pending() if each.fingerprint == full), None)
            if waiting is not None and zone not in {None, waiting.zone}:
                raise RefusedError(Reason.BAD_INPUT, f"{full[:16]}… asks for zone {waiting.zone}")
            wanted = waiting.zone if waiting is not None else zone
            if wanted is None:
                raise RefusedError(Reason.UNKNOWN_BOX, f"{full[:16]}… does not wait; say for which zone it is approved")
            with self._changing(store, "approve", dry_run=dry_run):
                store.approve(full, wanted, self._now_ms())
                check_claim(store, wanted, full)
                if waiting is not None:
                    store.wait(waiting.record, Waits.AUTHORITY, self._now_ms())
                    store.forget_approval(full)
            if not dry_run:
                self._settle(store)
                self._raise_problem(full)
            found = store.find(full)
            return found if found is not None and found.state is BoxState.ENROLLED else None

    def deny(self, fingerprint: str, note: str) -> None:
        """Refuse a TPM that waits or was approved. :raises RefusedError: ``unknown_box``: neither."""
        with self._store() as store:
            full = self._full(store, fingerprint)
            waiting = {each.fingerprint: each.zone for each in store.pending()} | dict(store.approvals())
            if full not in waiting:
                raise RefusedError(Reason.UNKNOWN_BOX, f"{full[:16]}… neither waits nor was approved")
            with self._changing(store, "deny"):
                store.refuse(full, waiting[full], note, self._now_ms())

    def revoke(self, zone: ZoneId, note: str, *, dry_run: bool = False) -> Box:
        """End a zone's box: its device CA proves no connection any more.

        :raises RefusedError: ``unknown_box``: the zone has none; ``bad_input``: it is the hub's own.
        """
        with self._store() as store:
            box = self._holder(store, zone)
            with self._changing(store, "revoke", dry_run=dry_run):
                store.mark(box.fingerprint, BoxState.REVOKED, note or "revoked", self._now_ms())
                store.deny_device_cas(box.fingerprint, note or "revoked", self._now_ms())
                store.forget_pending(box.fingerprint)
                store.forget_approval(box.fingerprint)
            self._publish(store)
            return box

    def replace(
        self, zone: ZoneId, *, fingerprint: str = "", voucher: bytes = b"", note: str = "", dry_run: bool = False
    ) -> Box:
        """End a zone's box, and let another TPM take its place, named by fingerprint or by a voucher.

        :return: the box that was ended.
        :raises RefusedError: ``unknown_box``, ``bad_input``. :raises DeniedError: the reasons of vouchers.
        """
        with self._store() as store:
            box = self._holder(store, zone)
            serial = ""
            if voucher:
                shown = Voucher.parse(voucher)
                admit(store, shown, self.folder.voucher_operators(), zone, shown.fingerprint, self._now_ms())
                fingerprint, serial = shown.fingerprint, shown.serial
            full = self._full(store, fingerprint)
            if full == box.fingerprint:
                raise RefusedError(Reason.BAD_INPUT, "that is the box the zone has")
            waiting = next((each for each in store.pending() if (each.fingerprint, each.zone) == (full, zone)), None)
            with self._changing(store, "replace", dry_run=dry_run):
                store.mark(box.fingerprint, BoxState.REPLACED, note or "replaced", self._now_ms())
                store.deny_device_cas(box.fingerprint, note or "replaced", self._now_ms())
                store.forget_pending(box.fingerprint)
                store.forget_approval(box.fingerprint)
                if serial:
                    store.use_voucher(serial, full, self._now_ms())
                store.approve(full, zone, self._now_ms())
                check_claim(store, zone, full)
                if waiting is not None:
                    store.wait(waiting.record, Waits.AUTHORITY, self._now_ms())
                    store.forget_approval(full)
            self._publish(store)
            if not dry_run:
                self._settle(store)
                self._raise_problem(full)
            return box

    def quarantine(
        self, zone: ZoneId, counter: int, *, code: str = "", evidence: str = "", opened_unix_ms: int = 0
    ) -> bool:
        """A zone's box is known to be, or to have been, in quarantine; it comes back only with a release.

        :param counter: as its TPM states it; whoever calls has proven that.
        :param code, evidence: why, and SHA-256 (hex) of the bundle; empty: not known yet.
        :return: whether it is in quarantine now: no release for this counter was seen.
        :raises RefusedError: ``unknown_box``.
        """
        now = self._now_ms()
        with self._store() as store:
            box = self._holder(store, zone)
            over = box.record is not None and counter <= box.record.counter
            note = code or (box.note if box.state is BoxState.QUARANTINED else "") or "its TPM says so"
            found = Quarantine(box.fingerprint, counter, code, evidence, opened_unix_ms, now, now if over else 0)
            with self._changing(store, "quarantine"):
                store.note_quarantine(found)
                if not over and (box.state, box.note) != (BoxState.QUARANTINED, note):
                    store.mark(box.fingerprint, BoxState.QUARANTINED, note, now)
            return not over

    def released(self, zone: ZoneId, release: Release) -> None:
        """A zone's box has shown a release together with its counter, certified by its TPM.

        :raises RefusedError: ``unknown_box``. :raises DeniedError: ``bad_release``: it is not for this box, or old.
        """
        with self._store() as store:
            box = self._holder(store, zone)
            if box.record is None or release.counter <= box.record.counter:
                raise DeniedError(Reason.BAD_RELEASE, "for a counter that is known")
            read_release(release.render(), box.record.request.policy.policy, release.counter)
            with self._changing(store, "released"):
                signed = release.evidence.hex()
                known = Quarantine(box.fingerprint, release.counter, evidence=signed, known_unix_ms=self._now_ms())
                store.note_quarantine(known)
                store.release(box.record.released(release), self._now_ms())
            _log.warning("zone %s was released by its operators, counter %d", zone, release.counter)

    def _holder(self, store: EnrolmentStore, zone: ZoneId) -> Box:
        box = store.of_zone(zone)
        if box is None:
            raise RefusedError(Reason.UNKNOWN_BOX, f"zone {zone} has no box")
        if zone == self.config.zone:
            raise RefusedError(Reason.BAD_INPUT, "that is the hub itself; without it nothing crosses")
        return box

    def _full(self, store: EnrolmentStore, fingerprint: str) -> str:
        """A whole fingerprint from its beginning. :raises RefusedError: ``unknown_box``: of none, or of several."""
        text = fingerprint.lower()
        known = {box.fingerprint for box in store.boxes()} | {waiting.fingerprint for waiting in store.pending()}
        known |= {approved for approved, _ in store.approvals()}
        found = [each for each in known if len(text) >= 8 and each.startswith(text)]
        if len(found) == 1:
            return found[0]
        if len(text) == 64 and all(digit in "0123456789abcdef" for digit in text):
            return text
        raise RefusedError(Reason.UNKNOWN_BOX, f"{fingerprint[:64]!r}: give 8 or more digits of one that is known")

    def take_certificate(self, pem: bytes) -> None:
        """Take in a certificate of the site's PKI, for whichever waiting box its key is.

        :raises DeniedError: ``bad_certificate``: it is for no box that waits, or this hub asks no PKI.
        """
        with self._store() as store:
            waiting = [each.record for each in store.pending() if each.waits is Waits.AUTHORITY]
            self._authority.take(pem, waiting)

    def look_at_voucher(self, data: bytes) -> tuple[Voucher, BsfgError | None]:
        """A voucher, and why this hub would not take it now; ``None``: it would.

        :raises BsfgError: ``bad_voucher``: it cannot be read.
        """
        voucher = Voucher.parse(data)
        with self._store() as store:
            try:
                check_claim(store, voucher.zone, voucher.fingerprint)
                operators = self.folder.voucher_operators()
                admit(store, voucher, operators, voucher.zone, voucher.fingerprint, self._now_ms())
            except DeniedError as error:
                return voucher, error
        return voucher, None

    # -- what follows -------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Do what follows from decisions, and was not done: certificates, and the files of the registry.

        :raises UnavailableError: ``authority_unavailable``. :raises DeniedError: ``bad_certificate``.
        """
        with self._store() as store:
            self._settle(store)
            self._publish(store)
            for fingerprint in self._problems:
                self._raise_problem(fingerprint)

    def _settle(self, store: EnrolmentStore) -> None:
        """Have the keys certified that wait for it; one that cannot be does not hold up the others."""
        self._problems = {}
        for each in store.pending():
            if each.waits is Waits.AUTHORITY:
                try:
                    self._certify(store, each)
                except BsfgError as error:
                    self._problems[each.fingerprint] = error
                    _log.error("enrolment of zone %s waits: %s", each.zone, error)

    def _raise_problem(self, fingerprint: str) -> None:
        if error := self._problems.get(fingerprint):
            raise error

    def _certify(self, store: EnrolmentStore, waiting: PendingBox) -> None:
        """Have the key certified; a certificate that was given out before is not taken again."""
        certificate = self._authority.certify(waiting.record, self._now())
        if certificate is None:
            return
        self._hook("certified")
        digest = certificate.fingerprint(hashes.SHA256())
        given = (each for certificates in store.device_cas().values() for each in certificates)
        if digest not in {each.fingerprint(hashes.SHA256()) for each in given}:
            with self._changing(store, "enrol"):
                store.enrol(waiting.record, certificate, self._now_ms())
            _log.info("box %s is zone %s", waiting.fingerprint, waiting.zone)
        self._authority.forget(waiting.record)
        self._publish(store)

    def _publish(self, store: EnrolmentStore) -> None:
        """Write the registry's files. :raises IntegrityError: ``bad_certificate``: another hub CA is there."""
        pki = self.config.pki
        pki.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        hub_ca = certificate_pem(self._authority.hub_ca)
        if not pki.hub_ca.exists():
            write_atomically(pki.hub_ca, hub_ca, PUBLIC)
        elif pki.hub_ca.read_bytes() != hub_ca:
            raise IntegrityError(Reason.BAD_CERTIFICATE, f"{pki.hub_ca} is another than this office's")
        self._hook("before registry")
        write_registry(Registry(self._authority.hub_ca, store.device_cas(), tuple(store.denials())), pki)
        self._hook("after registry")

    # -- lists --------------------------------------------------------------------------------------------------------

    def quarantines(self) -> dict[str, Quarantine]:
        """The last quarantine of each TPM that had any, by fingerprint."""
        with self._store() as store:
            return store.quarantines()

    def boxes(self) -> list[Box]:
        """All TPMs that were decided about."""
        with self._store() as store:
            return store.boxes()

    def pending(self) -> list[PendingBox]:
        """All boxes that wait."""
        with self._store() as store:
            return store.pending()

    def approvals(self) -> list[tuple[str, ZoneId]]:
        """Approvals that no box has used yet."""
        with self._store() as store:
            return store.approvals()

    def of_zone(self, zone: ZoneId) -> Box | None:
        """The box that has a zone."""
        with self._store() as store:
            return store.of_zone(zone)
