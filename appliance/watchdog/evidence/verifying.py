# SPDX-License-Identifier: Apache-2.0
"""What a bundle of evidence proves: checked far from the box, with the box file that was kept since enrolment. Pure.

Theory of operation: the box file names the attestation key, which signs nothing but what its TPM states. The seal is
such a statement over the bundle's digest, so the bundle is what this TPM was asked to seal, at this counter, in this
state of the boot. The lock itself extends a register by the digest of its case: in the same boot that tells for which
case the key was locked, and nothing can be put in its place. After another start only the counter tells of the lock.
What stands *in* the bundle was written by the box's programs: whoever had the rights of the watchdog before the seal
could have made them write something else. So a report keeps apart what is proven and what is the box's word.

Anything that is not this box's, or was changed, raises; what is proven and differs from enrolment or from the
published image is a finding, for a box in quarantine is expected to differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.attestation.quote import QuoteStatement, check_quote
from appliance.keys.attestation.reader import Reader
from appliance.keys.attestation.verdict import explained
from appliance.keys.boundary_time import TpmClock
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.attested import AttestedKind, certified_name, certified_number, open_attestation
from appliance.keys.tpm.policy import BOUND_PCRS, HELD_PCR, RESUMED_WORD, counter_public, latch_word
from appliance.keys.tpm.public import ATTESTATION, Attestation, Digest, ecdsa_public_of, name_of, sha256
from appliance.watchdog.evidence.bundle import Bundle, Seal, SourceState, digest_of

_ZERO: Final = bytes(32)
_EXTENSIONS: Final = 16
_MOMENT_MS: Final = 300_000
"""The three statements of a seal are made one after the other; a TPM that is busy may take its time."""


class Lock(StrEnum):
    """What the register of the latch tells: the TPM extends it when it locks the key, and only a reset clears it."""

    THIS_CASE = "this_case"
    """The key was locked in this boot, for just this case."""
    FINISHED = "finished"
    """A lock that was cut short in an earlier boot was finished in this one."""
    EARLIER = "earlier"
    """Nothing was locked in this boot: the box was started anew since, or the key was locked before the case."""
    OTHER = "other"
    """It was extended for something else than this case, or for more than it."""


@dataclass(frozen=True, slots=True)
class Report:
    """What evidence proves.

    :param counter: the quarantine counter, as the TPM states it.
    :param clock: the TPM's clock at the seal. :param latched_clock: at the lock; ``None``: locked before the case.
    :param lock: what the register of the latch (PCR 14) says of the lock when the seal was made.
    :param image: version of the published image that ran; empty: not compared, or none.
    :param proven: what is certain, in words. :param word: what is the box's word alone.
    :param findings: what is proven and not as enrolled or published.
    """

    bundle: Bundle
    digest: Digest
    counter: int
    clock: TpmClock
    latched_clock: TpmClock | None
    lock: Lock
    image: str
    proven: tuple[str, ...]
    word: tuple[str, ...]
    findings: tuple[str, ...]


def verify(bundle: bytes, seal: bytes, box: EnrolledBox, measurements: Measurements | None = None) -> Report:
    """Check evidence. :param measurements: what the image builder published, to name the image that ran.

    :raises RefusedError: ``bad_document``: it cannot be read.
    :raises DeniedError: ``bad_evidence``: not of this box, or changed; ``bad_measurements``: not the builder's of
        this box.
    """
    shown, sealed, digest = Bundle.parse(bundle), Seal.parse(seal), digest_of(bundle)
    if (shown.zone, sealed.zone) != (box.zone, box.zone):
        raise _bad(f"the evidence is of {shown.zone} and its seal of {sealed.zone}; the box file is of {box.zone}")
    if sealed.bundle != digest:
        raise _bad("the seal is over another bundle, or the bundle was changed")
    if measurements is not None and not measurements.signed_by(box.policy.image_key):
        raise DeniedError(Reason.BAD_MEASUREMENTS, "not signed by the image builder of this box")
    area = ecdsa_public_of(box.attestation_key, ATTESTATION)
    enrolled = EnrolledAttestation(area, box.pcrs, box.policy.image_key)
    quote = check_quote(enrolled, digest, sealed.quote, sealed.pcrs)
    counter = _counter(enrolled, digest, sealed.counter)
    _check_key(enrolled, digest, sealed.key, box)
    _check_moment(quote, sealed)
    latched_clock = _check_latch(enrolled, shown, counter, quote)
    image, findings = _compared(box, sealed, measurements)
    _, unexplained = explained(Evidence(shown.zone, sealed.quote, sealed.pcrs, shown.firmware_log, shown.runtime_log))
    lock = _lock_of(sealed.pcrs[HELD_PCR], shown.opened.digest())
    if lock is Lock.OTHER:
        findings.append(f"PCR {HELD_PCR} was extended for something else than this case")
    return Report(
        shown,
        digest,
        counter,
        quote.clock,
        latched_clock,
        lock,
        image,
        tuple(_proven(box, shown, counter, lock, image)),
        tuple(_word(shown, lock)),
        (*findings, *(finding.text for finding in unexplained)),
    )


def _lock_of(value: bytes, case: Digest) -> Lock:
    """What PCR 14 tells. A lock that is asked for again may extend it again."""
    if value == _ZERO:
        return Lock.EARLIER
    for word, found in ((latch_word(case), Lock.THIS_CASE), (RESUMED_WORD, Lock.FINISHED)):
        reached = _ZERO
        for _ in range(_EXTENSIONS):
            reached = sha256(reached + word)
            if reached == value:
                return found
    return Lock.OTHER


def clock_of(statement: bytes) -> TpmClock:
    """The clock in a TPMS_ATTEST (TPM 2.0 part 2, 10.12.12). :raises DeniedError: ``bad_evidence``: cut off."""
    reader = Reader(statement, "big")
    try:
        reader.take(6)
        reader.sized()
        reader.sized()
        return TpmClock(reader.number(8), reader.number(4), reader.number(4))
    except ValueError as error:
        raise _bad(f"a certificate: {error}") from error


def _counter(enrolled: EnrolledAttestation, nonce: Digest, told: Attestation) -> int:
    """The counter that the attestation key certifies over a digest."""
    with _as_evidence():
        body = open_attestation(enrolled.key, AttestedKind.NV, nonce, told)
        return certified_number(body, counter_public().written())


def _check_key(enrolled: EnrolledAttestation, digest: Digest, told: Attestation, box: EnrolledBox) -> None:
    """The boundary key of enrolment is in the TPM that sealed this."""
    with _as_evidence():
        body = open_attestation(enrolled.key, AttestedKind.CERTIFY, digest, told)
        if certified_name(body) != name_of(box.boundary_public):
            raise _bad("the TPM certified another boundary key than the one that was enrolled")


def _check_moment(quote: QuoteStatement, sealed: Seal) -> None:
    """The seal's statements are of one boot and one moment: nobody has put a later, better state beside a counter."""
    for told in (sealed.counter, sealed.key):
        clock = clock_of(told.statement)
        boot = (clock.reset_count, clock.restart_count)
        apart = abs(quote.clock.clock_ms - clock.clock_ms)
        if boot != (quote.clock.reset_count, quote.clock.restart_count) or apart > _MOMENT_MS:
            raise _bad("the seal's statements are of different moments")


def _check_latch(enrolled: EnrolledAttestation, shown: Bundle, counter: int, quote: QuoteStatement) -> TpmClock | None:
    """The key was locked for this case, at this counter, and before the seal."""
    if shown.latch is None:
        return None
    latched = _counter(enrolled, shown.opened.digest(), shown.latch.certificate)
    if (latched, shown.latch.counter) != (counter, counter):
        raise _bad(f"locked at counter {latched}, sealed at {counter}: the case is of another quarantine")
    at, sealed = clock_of(shown.latch.certificate.statement), quote.clock
    if (at.reset_count, at.clock_ms) > (sealed.reset_count, sealed.clock_ms):
        raise _bad("the seal is older than the lock")
    return at


@contextmanager
def _as_evidence() -> Iterator[None]:
    """:raises DeniedError: ``bad_evidence`` for whatever is wrong with a statement."""
    try:
        yield
    except DeniedError as error:
        raise _bad(error.detail) from error


def _compared(box: EnrolledBox, sealed: Seal, measurements: Measurements | None) -> tuple[str, list[str]]:
    """The image, and what is not as it was when the box was enrolled."""
    changed = [pcr for pcr in BOUND_PCRS if sealed.pcrs[pcr] != box.pcrs.get(pcr)]
    findings = [f"PCR {', '.join(map(str, changed))} differ from enrolment"] if changed else []
    if measurements is None:
        return "", findings
    image = measurements.image_of(sealed.pcrs)
    if image is None:
        return "", [*findings, "PCR 4, 9 or 11 is that of no published image: something else was booted"]
    if image.number < measurements.minimum:
        findings.append(f"image {image.version} is older than the builder allows")
    return image.version, findings


def _proven(box: EnrolledBox, shown: Bundle, counter: int, lock: Lock, image: str) -> Iterator[str]:
    yield f"The TPM that was enrolled as {box.zone} made the seal, and nothing in the evidence was changed since."
    yield f"The quarantine counter of that TPM is {counter}; when the boundary key was made it was {box.birth_counter}."
    if lock is Lock.THIS_CASE:
        yield "The boundary key was locked for this case and for no other, in the boot of the seal."
    elif lock is Lock.FINISHED:
        yield "The boundary key was locked; a lock that was cut short was finished in the boot of the seal."
    elif lock is Lock.EARLIER:
        yield "The boundary key was not locked in the boot of the seal, but before."
    if shown.latch is not None:
        yield f"That TPM certified this case at counter {counter}, before the seal."
    if image:
        yield f"What was booted is image {image}, as its builder published it."


def _word(shown: Bundle, lock: Lock) -> Iterator[str]:
    case = shown.opened
    yield f"Why: {case.code}" + (f" ({case.detail})" if case.detail else "")
    yield "What probes, journal, firewall and logs are said to show, and the wall clock's times."
    if lock is not Lock.THIS_CASE:
        yield "That it was this case for which the key was locked: another could have been certified since."
    for note in shown.sources:
        if note.state is not SourceState.PRESENT:
            yield f"Source {note.name}: {note.state}" + (f", {note.detail}" if note.detail else "")


def _bad(detail: str) -> DeniedError:
    return DeniedError(Reason.BAD_EVIDENCE, detail)
