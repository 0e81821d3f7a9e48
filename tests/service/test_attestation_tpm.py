# SPDX-License-Identifier: Apache-2.0
"""Attestation by a real (software) TPM: its quotes are accepted, no mutant of one is, and resets are noticed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.measurements import Image, Measurements
from appliance.keys.attestation.verdict import Expected, Verdict, judge
from appliance.keys.keeper.port import QUOTED_PCRS, Quote
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.policy import HELD_PCR
from appliance.keys.tpm.public import Attestation, Digest, sha256
from appliance.keys.tpm.simulated_boot import simulate_boot
from tests.tpm import SoftwareTpm, image_key, software_tpm

PLANT = ZoneId("plant-a")
NONCE = bytes(range(32))
BUILDER = image_key()


@dataclass(frozen=True)
class Box:
    """What a keeper would quote, straight from the device."""

    device: Device

    def quote(self, nonce: bytes = NONCE) -> Quote:
        """A quote of now."""
        with self.device.attestation_key() as (handle, _):
            attestation = self.device.quote(handle, QUOTED_PCRS, nonce)
        return Quote(attestation, self.device.pcr_read(QUOTED_PCRS), b"", b"")

    def evidence(self, nonce: bytes = NONCE) -> Evidence:
        """The same, as it is shown to a hub."""
        return Evidence.parse(Evidence.of(PLANT, self.quote(nonce)).render())

    def enrolled(self, builder: rsa.RSAPrivateKey = BUILDER) -> EnrolledAttestation:
        """What a hub keeps of it as it is now."""
        with self.device.attestation_key() as (_, public):
            pcrs = self.device.pcr_read(QUOTED_PCRS)
            return EnrolledAttestation(public, pcrs, builder.public_key(), self.device.clock().reset_count)

    def published(self) -> Measurements:
        """What the builder says of the image that runs now."""
        image = Image("1.0.0", 1, {pcr: (value,) for pcr, value in self.device.pcr_read([4, 9, 11]).items()})
        return Measurements(1, 1, (image,)).sign(BUILDER)


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    """A software TPM."""
    with software_tpm(tmp_path / "tpm") as tpm:
        yield tpm


def test_a_real_quote_is_accepted_and_no_mutant_of_it(tpm: SoftwareTpm) -> None:
    """Every bit of statement and signature, every PCR; quotes over other nonces; the original last."""
    with Device(tpm.tcti) as device:
        simulate_boot(device)
        box = Box(device)
        expected = Expected(box.enrolled(), box.published())
        good, rng = box.evidence(), random.Random(1)
        others = [box.evidence(rng.randbytes(32)) for _ in range(3)]
    mutants: set[tuple[bytes, bytes, tuple[tuple[int, bytes], ...]]] = set()
    statement, signature, pcrs = good.quote.statement, good.quote.signature, tuple(good.pcrs.items())
    for part, other in ((statement, lambda b: (b, signature, pcrs)), (signature, lambda b: (statement, b, pcrs))):
        for at in range(len(part) * 8):
            mutants.add(other(part[: at // 8] + bytes([part[at // 8] ^ 1 << at % 8]) + part[at // 8 + 1 :]))
    for pcr in QUOTED_PCRS:
        mutants.add((statement, signature, tuple({**good.pcrs, pcr: rng.randbytes(32)}.items())))
    mutants |= {(one.quote.statement, one.quote.signature, pcrs) for one in others}
    mutants |= {(statement, one.quote.signature, pcrs) for one in others}
    assert len(mutants) >= 1000
    for one, two, values in mutants:
        with pytest.raises(DeniedError) as refused:
            judge(expected, replace(good, quote=Attestation(one, two), pcrs=dict(values)), NONCE, 0)
        assert refused.value.reason is Reason.BAD_EVIDENCE
    assert judge(expected, good, NONCE, 0).findings == ()


def test_another_tpm_cannot_answer_for_a_box(tpm: SoftwareTpm, tmp_path: Path) -> None:
    """Though it booted the same."""
    with software_tpm(tmp_path / "other") as other, Device(other.tcti) as foreign, Device(tpm.tcti) as device:
        simulate_boot(device)
        simulate_boot(foreign)
        expected = Expected(Box(device).enrolled(), Box(device).published())
        assert device.pcr_read(QUOTED_PCRS) == foreign.pcr_read(QUOTED_PCRS)
        with pytest.raises(BsfgError, match="attestation key of enrolment"):
            judge(expected, Box(foreign).evidence(), NONCE, 0)
        assert judge(expected, Box(device).evidence(), NONCE, 0).accepted


@pytest.mark.parametrize("pcr", [4, 7, 9, 11, 12, 13, HELD_PCR, 15])
def test_an_extension_is_found_and_a_reset_heals_it(tpm: SoftwareTpm, pcr: int) -> None:
    """The quarantine's PCR too. After the reset the count of resets tells of it, and nothing else."""
    with Device(tpm.tcti) as device:
        simulate_boot(device)
        box = Box(device)
        expected = Expected(box.enrolled(), box.published())
        before = judge(expected, box.evidence(), NONCE, 0)
        assert before.accepted
        device.pcr_extend(pcr, Digest(sha256(b"something else")))
        found = judge(expected, box.evidence(), NONCE, 1000)
        assert [
            finding.text for finding in found.findings if f"PCR {pcr}" in finding.text or "PCR 4, 9" in finding.text
        ]
        assert not found.accepted
    tpm.reset()
    with Device(tpm.tcti) as device:
        simulate_boot(device)
        healed = judge(replace(expected, before=found.seen), Box(device).evidence(), NONCE, 2000)
        assert_only_reset(healed)


def assert_only_reset(verdict: Verdict) -> None:
    """Accepted, and nothing told but one reset."""
    assert [finding.text for finding in verdict.findings] == [
        "the machine, or its TPM alone, was reset 1 times since it last attested"
    ]
    assert verdict.accepted


def test_a_tpm_that_was_reset_without_a_boot_is_found(tpm: SoftwareTpm) -> None:
    """Its PCRs are those of nothing: a system that goes on running cannot bring its own back."""
    with Device(tpm.tcti) as device:
        simulate_boot(device)
        box = Box(device)
        expected = Expected(box.enrolled(), box.published())
    tpm.reset()
    with Device(tpm.tcti) as device:
        verdict = judge(expected, Box(device).evidence(), NONCE, 0)
    assert not verdict.accepted
    assert {f"PCR {pcr}" for pcr in (7, 12, 13, 15)} <= {finding.text[:6].strip() for finding in verdict.findings}
