# SPDX-License-Identifier: Apache-2.0
"""The verdict: each thing that can differ is found, in words, and weighs what it should."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.attestation.verdict import Expected, Seen, Verdict, judge, refused
from appliance.keys.keeper.port import QUOTED_PCRS
from tests.attesting import NONCE, SimulatedTpm, boot, measurements, phases

AT_MS = 10_000_000


def booted(secure_boot: bytes = b"\1") -> tuple[SimulatedTpm, bytes, bytes]:
    """A box that has started, and its two logs."""
    tpm = SimulatedTpm()
    firmware_log = boot(tpm, secure_boot=secure_boot)
    runtime_log = phases(tpm, "enter-initrd", "leave-initrd", "sysinit", "ready")
    runtime_log += phases(tpm, "machine-id:1234", pcr=15)
    return tpm, firmware_log, runtime_log


def judged(
    tpm: SimulatedTpm,
    enrolled: EnrolledAttestation,
    published: Measurements | None,
    logs: tuple[bytes, bytes] = (b"", b""),
    before: Seen | None = None,
    at_ms: int = AT_MS,
) -> Verdict:
    """The verdict on what this TPM quotes now."""
    evidence = tpm.evidence(firmware_log=logs[0], runtime_log=logs[1])
    return judge(Expected(enrolled, published, before), evidence, NONCE, at_ms)


def texts(verdict: Verdict, *, fatal: bool) -> list[str]:
    """What was found."""
    return [finding.text for finding in verdict.findings if finding.fatal is fatal]


def test_a_box_that_is_as_enrolled_is_accepted() -> None:
    """With its logs and without, and nothing is found."""
    tpm, *logs = booted()
    for shown in ((logs[0], logs[1]), (b"", b"")):
        verdict = judged(tpm, tpm.enrolled(), measurements(tpm), shown)
        assert (verdict.findings, verdict.accepted, verdict.image) == ((), True, "1.3.0")
        assert refused(verdict) is None


@pytest.mark.parametrize(
    ("pcr", "words"),
    [
        (7, "Secure Boot changed"),
        (12, "kernel command line"),
        (13, "system extension"),
        (14, "quarantine"),
        (15, "another /var"),
        (4, "no published image"),
        (9, "no published image"),
        (11, "no published image"),
    ],
)
def test_each_pcr_that_matters_is_fatal(pcr: int, words: str) -> None:
    """One extension is enough, and it is the only thing found."""
    tpm, *_ = booted()
    enrolled, published = tpm.enrolled(), measurements(tpm)
    tpm.extend(pcr, hashlib.sha256(b"something else").digest())
    verdict = judged(tpm, enrolled, published)
    assert not verdict.accepted
    assert len(verdict.findings) == 1
    assert words in verdict.findings[0].text
    error = refused(verdict)
    assert error is not None
    assert error.reason is Reason.ATTESTATION_FAILED
    assert words in error.detail


@pytest.mark.parametrize("pcr", [0, 1, 2, 3, 6])
def test_firmware_is_told_and_not_fatal(pcr: int) -> None:
    """It is updated on its own."""
    tpm, *_ = booted()
    enrolled, published = tpm.enrolled(), measurements(tpm)
    tpm.extend(pcr, bytes(32))
    verdict = judged(tpm, enrolled, published)
    assert verdict.accepted
    assert texts(verdict, fatal=False)[0].startswith(f"PCR {pcr} differs from enrolment")


def test_every_bound_pcr_must_be_known() -> None:
    """An enrolment that does not say what PCR 15 was cannot vouch for it."""
    tpm, *_ = booted()
    enrolled = replace(tpm.enrolled(), pcrs={pcr: tpm.pcrs[pcr] for pcr in (7, 12, 13)})
    verdict = judged(tpm, enrolled, measurements(tpm))
    assert "PCR 15 differs" in texts(verdict, fatal=True)[0]
    assert set(tpm.pcrs) == set(QUOTED_PCRS)


def test_secure_boot_off_is_named() -> None:
    """When the log proves it."""
    enrolled_tpm, *_ = booted()
    tpm, *logs = booted(secure_boot=b"\0")
    tpm.key = enrolled_tpm.key
    verdict = judged(tpm, enrolled_tpm.enrolled(), measurements(tpm), (logs[0], logs[1]))
    assert texts(verdict, fatal=True) == ["PCR 7 differs from enrolment: Secure Boot is off"]


def test_images_of_others_and_old_ones_are_refused() -> None:
    """And a hub without reference measurements says that it did not compare."""
    tpm, *_ = booted()
    enrolled = tpm.enrolled()
    old = judged(tpm, enrolled, measurements(tpm, number=3, minimum=4))
    assert texts(old, fatal=True) == ["image 1.3.0 (number 3) is older than allowed (4)"]
    assert judged(tpm, enrolled, measurements(tpm, number=3, minimum=3)).accepted
    stranger = replace(enrolled, image_key=rsa.generate_private_key(65537, 2048).public_key())
    assert "not of this box's image builder" in texts(judged(tpm, stranger, measurements(tpm)), fatal=True)[0]
    none = judged(tpm, enrolled, None)
    assert none.accepted
    assert "was not compared" in texts(none, fatal=False)[0]


def test_logs_that_do_not_lead_to_the_quote_are_found() -> None:
    """Fatal beyond the firmware's own PCRs, whose logs some machines write wrongly."""
    tpm, firmware_log, runtime_log = booted()
    enrolled, published = tpm.enrolled(), measurements(tpm)
    for logs, fatal, told in (
        ((firmware_log, b""), [11, 15], []),
        ((b"", runtime_log), [7, 9, 11], [0, 1, 2, 3, 4, 5, 6]),
        ((boot(SimulatedTpm(), image=b"image 2"), runtime_log), [9, 11], [4]),
        ((boot(SimulatedTpm(), locality=0), runtime_log), [], [0]),
    ):
        verdict = judged(tpm, enrolled, published, logs)
        assert texts(verdict, fatal=True) == [f"the logs do not lead to PCR {pcr}" for pcr in fatal]
        assert texts(verdict, fatal=False) == [f"the logs do not lead to PCR {pcr}" for pcr in told]
    for logs in ((firmware_log[:-1], runtime_log), (firmware_log, runtime_log + b"\x1e")):
        assert "cannot be read" in texts(judged(tpm, enrolled, published, logs), fatal=True)[0]


def clear(tpm: SimulatedTpm) -> None:
    """TPM2_Clear."""
    tpm.resets, tpm.clock_ms = 0, 5


def reset(tpm: SimulatedTpm) -> None:
    """The machine starts again twice."""
    tpm.resets += 2


def stand_still(tpm: SimulatedTpm) -> None:
    """The TPM's clock does not count."""


def jump(tpm: SimulatedTpm) -> None:
    """TPM2_ClockSet."""
    tpm.clock_ms += 86_400_000


def count(tpm: SimulatedTpm) -> None:
    """Five minutes pass."""
    tpm.clock_ms += 301_000


def update(tpm: SimulatedTpm) -> None:
    """The TPM gets new firmware."""
    tpm.clock_ms += 299_000
    tpm.firmware += 1


@pytest.mark.parametrize(
    ("happens", "fatal", "told"),
    [
        (count, [], []),
        (clear, ["the TPM was cleared: it counts its resets anew"], []),
        (reset, [], ["the machine, or its TPM alone, was reset 2 times since it last attested"]),
        (stand_still, [], ["the TPM's clock counted 0 ms in 300000 ms"]),
        (jump, [], ["the TPM's clock counted 86400000 ms in 300000 ms"]),
        (update, [], ["the TPM's firmware was changed"]),
    ],
)
def test_counters_and_clock(happens: Callable[[SimulatedTpm], None], fatal: list[str], told: list[str]) -> None:
    """What they tell since the attestation before; that a clock is not safe tells nothing."""
    tpm, *_ = booted()
    enrolled, published = tpm.enrolled(), measurements(tpm)
    before = judged(tpm, enrolled, published).seen
    happens(tpm)
    verdict = judged(tpm, enrolled, published, before=before, at_ms=AT_MS + 300_000)
    assert (texts(verdict, fatal=True), texts(verdict, fatal=False)) == (fatal, told)


def test_a_rate_is_not_told_from_a_moment() -> None:
    """The journey of the evidence would count as the TPM's clock."""
    tpm, *_ = booted()
    enrolled, published = tpm.enrolled(), measurements(tpm)
    before = judged(tpm, enrolled, published).seen
    assert judged(tpm, enrolled, published, before=before, at_ms=AT_MS + 30_000).findings == ()
    assert judged(tpm, enrolled, published, before=before, at_ms=AT_MS + 30_001).findings != ()


def test_a_tpm_cleared_since_enrolment_is_found_at_first_sight() -> None:
    """Resets since then are what machines do."""
    tpm, *_ = booted()
    enrolled = tpm.enrolled()
    tpm.resets += 20
    assert judged(tpm, enrolled, measurements(tpm)).findings == ()
    tpm.resets = 1
    assert "cleared" in texts(judged(tpm, enrolled, measurements(tpm)), fatal=True)[0]


def test_evidence_that_comes_late_says_nothing() -> None:
    """It is refused, and not held against the box."""
    tpm, *_ = booted()
    enrolled, published = tpm.enrolled(), measurements(tpm)
    late = tpm.evidence()
    tpm.clock_ms += 1
    before = judged(tpm, enrolled, published).seen
    with pytest.raises(DeniedError, match="older than the evidence before it"):
        judge(Expected(enrolled, published, before), late, NONCE, AT_MS + 1)


def test_evidence_of_another_tpm_raises() -> None:
    """Even if it says all the same."""
    tpm, *_ = booted()
    other = SimulatedTpm(pcrs=dict(tpm.pcrs))
    with pytest.raises(DeniedError) as denied:
        judged(other, tpm.enrolled(), measurements(tpm))
    assert denied.value.reason is Reason.BAD_EVIDENCE
