# SPDX-License-Identifier: Apache-2.0
"""The verdict on a box's evidence: what differs from enrolment and from the published image, in words. Pure.

Evidence that is not proven to be of this box raises and says nothing about the box: anybody may have sent it. What is
proven is compared; each difference is a finding. Fatal are those that say that something else runs, or that the box is
no longer the one that was enrolled. Firmware (PCRs 0 to 6) is updated on its own and differs between boots of some
machines: differences there are told, and not fatal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.firmware_log import FirmwareLog, parse_firmware_log
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.attestation.quote import QuoteStatement, check_quote
from appliance.keys.attestation.runtime_log import parse_runtime_log, replay_runtime_log
from appliance.keys.attestation.standing import Stood, judge_standing
from appliance.keys.release import Release
from appliance.keys.tpm.policy import HELD_PCR

_ZERO: Final = bytes(32)
_BOUND: Final = {
    7: "the state or the keys of Secure Boot changed",
    12: "the kernel command line was lengthened, or credentials were added",
    13: "a system extension was added",
    15: "another /var was opened, or the machine id changed",
}
"""The PCRs the boundary key is bound to, and what a difference to enrolment means."""
_FIRMWARE: Final = {0: "firmware", 1: "firmware settings", 2: "option ROMs", 3: "option ROM settings", 6: "vendor data"}
_FIRMWARE_PCRS: Final = range(7)
RATE: Final = 3
"""A clock that is off by more than this factor is not the TPM's own oscillator any more (32.5 % are allowed)."""
SHORTEST_MS: Final = 30_000
"""Over shorter times the journey of the evidence blurs the rate."""


class Subject(StrEnum):
    """What a finding is about."""

    BOOT_STATE = "boot_state"
    """The PCRs the boundary key is bound to, against enrolment."""
    LATCH = "latch"
    FIRMWARE = "firmware"
    IMAGE = "image"
    OLD_IMAGE = "old_image"
    REFERENCE = "reference"
    """What the image is compared with."""
    LOG = "log"
    CLOCK = "clock"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as expected. :param fatal: whether it fails the attestation."""

    subject: Subject
    text: str
    fatal: bool = True


@dataclass(frozen=True, slots=True)
class Seen:
    """What the hub saw of a box last time. :param at_ms: when, by a clock of the hub that nobody sets."""

    quote: QuoteStatement
    at_ms: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the hub found. :param image: version of the image that runs, empty when it is not known.

    :param standing: the quarantine counter, and the release that explains it.
    """

    findings: tuple[Finding, ...]
    image: str
    seen: Seen
    standing: Stood = field(default_factory=Stood)

    @property
    def accepted(self) -> bool:
        """Whether nothing fatal was found."""
        return not any(finding.fatal for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Expected:
    """What the hub compares with.

    :param measurements: ``None``: the site has none; then only enrolment counts, and the verdict says so.
    :param before: of the attestation before this one, since the hub started.
    """

    enrolled: EnrolledAttestation
    measurements: Measurements | None = None
    before: Seen | None = None


def judge(expected: Expected, evidence: Evidence, nonce: bytes, at_ms: int) -> Verdict:
    """Compare evidence with what is expected.

    :param at_ms: now, by a clock of the hub that nobody sets.
    :raises DeniedError: ``bad_evidence``: not a quote of this box over this nonce, or older than the one before.
    """
    quote = check_quote(expected.enrolled, nonce, evidence.quote, evidence.pcrs)
    seen = Seen(quote, at_ms)
    _check_newer(expected.before, quote)
    stood = judge_standing(expected.enrolled, evidence.standing, nonce)
    log, log_findings = explained(evidence)
    image, image_findings = _image(expected, evidence.pcrs)
    findings = (
        *([Finding(Subject.LATCH, stood.problem)] if stood.problem else []),
        *_since_enrolment(_as_released(expected.enrolled, stood.release), evidence.pcrs, log),
        *image_findings,
        *log_findings,
        *_clock(expected, seen),
    )
    return Verdict(findings, image, seen, stood)


def _as_released(enrolled: EnrolledAttestation, release: Release | None) -> EnrolledAttestation:
    """What is expected of a box after a release: its operators accepted the PCRs that stand in it."""
    if release is None:
        return enrolled
    kept = {pcr: value for pcr, value in enrolled.pcrs.items() if pcr != HELD_PCR}
    return replace(enrolled, pcrs={**kept, **release.pcrs})


def _check_newer(before: Seen | None, quote: QuoteStatement) -> None:
    """Between two resets the TPM's clock only grows, so a smaller one is evidence that comes late."""
    if before is None or before.quote.clock.reset_count != quote.clock.reset_count:
        return
    if quote.clock.clock_ms < before.quote.clock.clock_ms:
        raise DeniedError(Reason.BAD_EVIDENCE, "older than the evidence before it")


def _since_enrolment(
    enrolled: EnrolledAttestation, pcrs: Mapping[int, bytes], log: FirmwareLog | None
) -> Iterator[Finding]:
    for pcr, meaning in _BOUND.items():
        if pcr not in enrolled.pcrs or pcrs[pcr] != enrolled.pcrs[pcr]:
            off = pcr == 7 and log is not None and log.secure_boot() is False
            yield Finding(
                Subject.BOOT_STATE, f"PCR {pcr} differs from enrolment: {'Secure Boot is off' if off else meaning}"
            )
    if pcrs[HELD_PCR] != enrolled.pcrs.get(HELD_PCR, _ZERO):
        yield Finding(Subject.LATCH, f"PCR {HELD_PCR} was extended: the box has gone into quarantine")
    for pcr, part in _FIRMWARE.items():
        if pcr in enrolled.pcrs and pcrs[pcr] != enrolled.pcrs[pcr]:
            yield Finding(Subject.FIRMWARE, f"PCR {pcr} differs from enrolment: {part} changed", fatal=False)


def _image(expected: Expected, pcrs: Mapping[int, bytes]) -> tuple[str, list[Finding]]:
    measurements = expected.measurements
    if measurements is None:
        text = "the hub has no reference measurements: the image was not compared"
        return "", [Finding(Subject.REFERENCE, text, fatal=False)]
    if not measurements.signed_by(expected.enrolled.image_key):
        text = "the hub's reference measurements are not of this box's image builder"
        return "", [Finding(Subject.REFERENCE, text)]
    image = measurements.image_of(pcrs)
    if image is None:
        return "", [Finding(Subject.IMAGE, "PCR 4, 9 or 11 is that of no published image: something else was booted")]
    if image.number < measurements.minimum:
        text = f"image {image.version} (number {image.number}) is older than allowed ({measurements.minimum})"
        return image.version, [Finding(Subject.OLD_IMAGE, text)]
    return image.version, []


def explained(evidence: Evidence) -> tuple[FirmwareLog | None, list[Finding]]:
    """Whether the logs lead to the quoted values; without logs there is nothing to lead anywhere."""
    if not evidence.firmware_log and not evidence.runtime_log:
        return None, []
    try:
        log = parse_firmware_log(evidence.firmware_log) if evidence.firmware_log else FirmwareLog(())
        replayed = replay_runtime_log(parse_runtime_log(evidence.runtime_log), log.replay())
    except DeniedError as error:
        return None, [Finding(Subject.LOG, f"the logs cannot be read: {error.detail}")]
    return log, [
        Finding(Subject.LOG, f"the logs do not lead to PCR {pcr}", fatal=pcr not in _FIRMWARE_PCRS)
        for pcr, value in sorted(evidence.pcrs.items())
        if pcr != HELD_PCR and replayed.get(pcr, _ZERO) != value
    ]


def _clock(expected: Expected, seen: Seen) -> Iterator[Finding]:
    """What the TPM's counters and clock tell. That its clock is not safe means no more than an unorderly stop."""
    clock, before = seen.quote.clock, expected.before
    resets = before.quote.clock.reset_count if before is not None else expected.enrolled.reset_count
    if clock.reset_count < resets:
        yield Finding(Subject.CLOCK, "the TPM was cleared: it counts its resets anew")
    elif before is not None and clock.reset_count > resets:
        count = clock.reset_count - resets
        text = f"the machine, or its TPM alone, was reset {count} times since it last attested"
        yield Finding(Subject.CLOCK, text, fatal=False)
    elif before is not None:
        yield from _rate(before, seen)
    if before is not None and seen.quote.firmware != before.quote.firmware:
        yield Finding(Subject.FIRMWARE, "the TPM's firmware was changed", fatal=False)


def _rate(before: Seen, seen: Seen) -> Iterator[Finding]:
    passed_ms, counted_ms = seen.at_ms - before.at_ms, seen.quote.clock.clock_ms - before.quote.clock.clock_ms
    if passed_ms > SHORTEST_MS and not passed_ms // RATE <= counted_ms <= passed_ms * RATE:
        yield Finding(Subject.CLOCK, f"the TPM's clock counted {counted_ms} ms in {passed_ms} ms", fatal=False)


def refused(verdict: Verdict) -> DeniedError | None:
    """Why a box is not let in after this verdict; ``None``: it is."""
    fatal = [finding.text for finding in verdict.findings if finding.fatal]
    return DeniedError(Reason.ATTESTATION_FAILED, "; ".join(fatal)) if fatal else None
