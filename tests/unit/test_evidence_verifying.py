# SPDX-License-Identifier: Apache-2.0
"""What evidence proves, and what is the box's word: on a **simulated** TPM whose keys the test holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.keys.keeper.port import Latched
from appliance.keys.tpm.policy import BOUND_PCRS, RESUMED_WORD, latch_word
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, Bundle, Seal, SourceNote, SourceState, digest_of
from appliance.watchdog.evidence.verifying import Lock, verify
from tests.attesting import boot, measurements, phases
from tests.boxes import OTHER, SimulatedBox
from tests.evidence import SimulatedQuarantine, a_case, some_sources


@pytest.fixture
def world() -> SimulatedQuarantine:
    """A box that was booted with logs, and enrolled so."""
    box = SimulatedBox()
    world = SimulatedQuarantine(box, boot(box), phases(box, "enter-initrd", "ready"))
    box.birth_pcrs = {pcr: box.pcrs[pcr] for pcr in BOUND_PCRS}
    return world


async def test_what_is_proven_is_told_apart_from_the_boxs_word(world: SimulatedQuarantine) -> None:
    """Counter, lock, boot and image are proven; why, and what is missing, is the box's word."""
    bundle, seal = await world.take(a_case())
    report = verify(bundle.render(), seal.render(), world.enrolled, measurements(world.box))
    assert report.findings == ()
    assert (report.counter, report.image, report.lock) == (2, "1.3.0", Lock.THIS_CASE)
    assert report.digest == digest_of(bundle.render())
    assert any("locked for this case" in each for each in report.proven)
    assert any("image 1.3.0" in each for each in report.proven)
    assert report.word[0] == "Why: secure_boot_off (SecureBoot is 0)"
    assert report.latched_clock is not None
    assert report.latched_clock.clock_ms < report.clock.clock_ms
    assert report.bundle.firmware_log == world.boot_log


async def test_what_differs_is_a_finding_and_still_proven(world: SimulatedQuarantine) -> None:
    """Another Secure Boot state, an unknown image, a log that leads elsewhere: that is what a quarantine is for."""
    published = measurements(world.box)
    world.box.extend(7, bytes(32))
    world.box.extend(11, bytes(32))
    bundle, seal = await world.take(a_case())
    report = verify(bundle.render(), seal.render(), world.enrolled, published)
    assert [each for each in report.findings if "PCR 7 differ" in each]
    assert [each for each in report.findings if "no published image" in each]
    assert [each for each in report.findings if "the logs do not lead to PCR 11" in each]
    assert report.image == ""
    too_old = replace(measurements(world.box), minimum=4)
    with pytest.raises(DeniedError, match="bad_measurements"):
        verify(bundle.render(), seal.render(), world.enrolled, too_old)  # its signature is of another minimum
    older = verify(bundle.render(), seal.render(), world.enrolled, measurements(world.box, minimum=4))
    assert [each for each in older.findings if "older than the builder allows" in each]


async def test_a_key_that_was_locked_before_is_told_so(world: SimulatedQuarantine) -> None:
    """A restored disk forgot the quarantine: no case was locked over, and no boot of the lock is known."""
    world.box.counter += 1
    bundle, seal = await world.gather(a_case(), None)
    report = verify(bundle.render(), seal.render(), world.enrolled)
    assert (report.latched_clock, report.lock) == (None, Lock.EARLIER)
    assert not any("for this case, and for no other" in each for each in report.proven)
    assert any("another could have been certified" in each for each in report.word)
    assert any("but before" in each for each in report.proven)


async def test_no_other_case_takes_the_place_of_the_one_it_was_locked_for(world: SimulatedQuarantine) -> None:
    """Root has another case certified and sealed in the same boot: the register tells."""
    first, other = a_case(), a_case(detail="all is well")
    latched = world.latch(first.digest())
    certified = Latched(latched.counter, world.box.sign(world.box.counter_statement(other.digest())))
    world.box.clock_ms += 1
    forged, seal = await world.gather(other, certified)
    report = verify(forged.render(), seal.render(), world.enrolled)
    assert report.lock is Lock.OTHER
    assert any("for something else than this case" in each for each in report.findings)
    assert not any("locked for this case" in each for each in report.proven)
    world.box.extend(14, latch_word(first.digest()))
    again, seal = await world.gather(first, latched)
    assert verify(again.render(), seal.render(), world.enrolled).lock is Lock.THIS_CASE
    world.box.extend(14, latch_word(other.digest()))
    more, seal = await world.gather(first, latched)
    assert verify(more.render(), seal.render(), world.enrolled).lock is Lock.OTHER


async def test_a_lock_that_was_finished_at_the_next_start_is_told_so(world: SimulatedQuarantine) -> None:
    """The power failed between the counter and the register; what it was for, only the certificate says."""
    world.box.counter += 1
    case = a_case()
    certificate = world.box.sign(world.box.counter_statement(case.digest()))
    world.box.extend(14, RESUMED_WORD)
    bundle, seal = await world.gather(case, Latched(2, certificate))
    report = verify(bundle.render(), seal.render(), world.enrolled)
    assert (report.lock, report.findings) == (Lock.FINISHED, ())


async def test_evidence_of_another_box_case_or_time_is_refused(world: SimulatedQuarantine) -> None:
    """Each part is real, and from somewhere else."""
    case = a_case()
    bundle, seal = await world.take(case)
    good = bundle.render(), seal.render()
    verify(*good, world.enrolled)
    other = SimulatedQuarantine(SimulatedBox(zone=OTHER))
    theirs, their_seal = await other.take(a_case(OTHER))
    cloned = SimulatedQuarantine(SimulatedBox())  # another TPM, enrolled as the same zone once
    fake, fake_seal = await cloned.take(case)
    for pair in ((theirs, their_seal), (theirs, seal), (bundle, their_seal), (fake, fake_seal), (bundle, fake_seal)):
        with pytest.raises(DeniedError, match="bad_evidence"):
            verify(pair[0].render(), pair[1].render(), world.enrolled)
    for swapped in ("quote", "counter", "key"):
        mixed = replace(seal, **{swapped: getattr(fake_seal, swapped)})
        with pytest.raises(DeniedError, match="bad_evidence"):
            verify(good[0], mixed.render(), world.enrolled)
    another, another_seal = await world.gather(a_case(detail="another"), bundle.latch)
    with pytest.raises(DeniedError, match=r"bad_evidence.*nonce"):
        verify(another.render(), another_seal.render(), world.enrolled)  # the lock was over another case
    world.box.counter += 1
    later, later_seal = await world.gather(case, bundle.latch)
    with pytest.raises(DeniedError, match="another quarantine"):
        verify(later.render(), later_seal.render(), world.enrolled)


async def test_a_seal_from_before_the_lock_is_refused(world: SimulatedQuarantine) -> None:
    """The TPM's clock only grows."""
    case = a_case()
    world.box.clock_ms += 10_000
    latched = world.latch(case.digest())
    world.box.clock_ms -= 10_000
    bundle, seal = await world.gather(case, latched)
    with pytest.raises(DeniedError, match="older than the lock"):
        verify(bundle.render(), seal.render(), world.enrolled)


async def test_another_boundary_key_in_the_same_tpm_is_refused(world: SimulatedQuarantine) -> None:
    """The box file says which one was enrolled."""
    enrolled = world.enrolled
    bundle, seal = await world.take(a_case())
    sign, nonce = world.box.sign, seal.bundle
    foreign = sign(world.box.key_statement(nonce, b"\0\x0b" + bytes(32)))
    with pytest.raises(DeniedError, match="another boundary key"):
        verify(bundle.render(), replace(seal, key=foreign).render(), enrolled)
    counted = sign(world.box.counter_statement(nonce, name=b"\0\x0b" + bytes(32)))
    with pytest.raises(DeniedError, match="another index"):
        verify(bundle.render(), replace(seal, counter=counted).render(), enrolled)


async def test_measurements_of_another_builder_are_refused(world: SimulatedQuarantine) -> None:
    """They would name any image."""
    bundle, seal = await world.take(a_case())
    foreign = measurements(world.box).sign(rsa.generate_private_key(65537, 2048))
    with pytest.raises(DeniedError, match="bad_measurements"):
        verify(bundle.render(), seal.render(), world.enrolled, foreign)


async def test_documents_have_one_form_and_a_size(world: SimulatedQuarantine) -> None:
    """What is read is what is rendered; two locks, another zone's case, or too much are none."""
    bundle, seal = await world.take(a_case())
    assert Bundle.parse(bundle.render()) == bundle
    assert Seal.parse(seal.render()) == seal
    text = bundle.render()
    start = text.index(b'"latch":[') + len(b'"latch":[')
    entry = text[start : text.index(b"]", start)]
    for bad in (
        text.replace(entry, entry + b"," + entry),
        text.replace(b'"number":"1"', b'"number":1'),
        text.replace(b'"number":"1"', b'"number":"01"'),
        replace(bundle, zone=ZoneId("plant-b")).render(),
        replace(bundle, sources=(SourceNote("x", SourceState.CUT, "x" * BUNDLE_BYTES),)).render(),
        b"",
        b"[]\n",
        seal.render(),
    ):
        with pytest.raises(RefusedError, match="bad_document"):
            Bundle.parse(bad)
    with pytest.raises(RefusedError, match="bad_document"):
        Seal.parse(text)


async def test_sources_that_are_missing_are_named(world: SimulatedQuarantine) -> None:
    """In the report too."""

    def broken() -> dict[str, str]:
        raise OSError(5, "I/O error")

    bundle, seal = await world.take(a_case(), some_sources(image=broken))
    assert bundle.image == {}
    report = verify(bundle.render(), seal.render(), world.enrolled)
    assert any(each.startswith("Source image: missing") for each in report.word)
