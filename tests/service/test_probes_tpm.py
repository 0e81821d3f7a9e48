# SPDX-License-Identifier: Apache-2.0
"""The probes that ask the TPM, attacked: real (software) TPMs, keepers and quotes; see ``tests/tampering_tpm.py``."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import trio

from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.keeper.port import Certified
from appliance.keys.tpm.policy import IMAGE_PCR
from appliance.keys.tpm.public import sha256
from appliance.watchdog.probes.clock import CLOCK_FILE, Sample, compared
from appliance.watchdog.probes.quote import QuoteProbe
from appliance.watchdog.probing import Reading, asked
from appliance.watchdog.suspicions import Code, ProbeName
from tests.tampering_tpm import (
    TAMPERINGS,
    WORD,
    Enrolled,
    TpmTampering,
    extend,
    hours_later,
    record,
    reset,
    seen_by,
    tpm_box,
    write_measurements,
)
from tests.tpm import image_key

NOTHING: frozenset[Code] = frozenset()


@pytest.fixture(scope="module")
def enrolled(tmp_path_factory: pytest.TempPathFactory) -> Enrolled:
    """A box that each test has a copy of."""
    return Enrolled.make(tmp_path_factory.mktemp("enrolled"))


@pytest.mark.parametrize("tampering", TAMPERINGS, ids=lambda each: each.name)
async def test_each_is_seen_under_its_own_code(tampering: TpmTampering, tmp_path: Path, enrolled: Enrolled) -> None:
    """Before it nothing is seen, by any of the three; after it its own code, again and again."""
    async with tpm_box(tmp_path, enrolled) as box:
        probes = box.probes()
        for probe in probes.values():
            for _ in range(2):
                codes, reading = await seen_by(probe)
                assert (codes, reading.blind) == (NOTHING, ""), reading
        await tampering.inject(box)
        for _ in range(2):
            codes, reading = await seen_by(probes[tampering.probe])
            assert (codes, reading.blind) == (tampering.codes, ""), reading
            assert Reading.parse(reading.render()).seen == reading.seen


async def test_what_belongs_to_a_boxs_life_is_no_suspicion(tmp_path: Path, enrolled: Enrolled) -> None:
    """A reboot, a keeper that starts anew, a shutdown, a latch of our own, documents that do not know the image."""
    async with tpm_box(tmp_path, enrolled) as box:
        probes = box.probes()

        async def clean(where: str) -> Reading:
            found = [await probe.look() for probe in probes.values()]
            assert [(each.seen, each.blind) for each in found] == [((), "")] * 3, where
            return found[0]

        await box.stop()
        await box.start()
        await clean("the keeper was started anew")
        await box.stop()
        box.tpm.reset()
        await box.start()
        probes = box.probes("run-of-the-next-boot")
        await clean("a reboot")
        boot_log = box.site.folder / "boot.log"
        for other in (b"", boot_log.read_bytes() + bytes(FIRMWARE_LOG_BYTES)):
            kept = boot_log.read_bytes()
            boot_log.write_bytes(other)
            await clean("a machine without a log of its firmware, or with one beyond all measure")
            boot_log.write_bytes(kept)
        write_measurements(box, box.pcrs())
        assert (await clean("a document that knows the image")).facts["image"] == "1.0.0"
        write_measurements(box, {IMAGE_PCR: WORD})
        assert (await clean("an older document")).facts["image"] == "signed"
        good = Measurements.parse(box.pki.measurements.read_bytes())
        write_measurements(box, {**box.pcrs(), 4: WORD})
        box.pki.measurements.write_bytes(good.sign(image_key()).render())
        await clean("a document of somebody else")
        with (box.site.folder / "runtime.log").open("ab") as log:
            log.write(record(IMAGE_PCR, sha256(b"shutdown")))
        await extend(IMAGE_PCR, sha256(b"shutdown"))(box)
        assert (await clean("the system goes down")).facts["phase"] == "shutdown"


async def test_our_own_latch_is_known(tmp_path: Path, enrolled: Enrolled) -> None:
    """With the watchdog's journal; without it both probes say what they must."""
    async with tpm_box(tmp_path, enrolled) as box:
        probes = box.probes()
        await box.keeper.latch(sha256(b"case"))
        box.latched = True
        assert [(await seen_by(probes[name]))[0] for name in (ProbeName.QUOTE, ProbeName.KEY)] == [NOTHING] * 2
        box.latched = False
        assert (await seen_by(probes[ProbeName.QUOTE]))[0] == {Code.LATCH_PCR_EXTENDED}
        assert (await seen_by(probes[ProbeName.KEY]))[0] == {Code.KEY_LATCHED}


async def test_a_key_that_is_replaced_in_good_order_is_no_suspicion(tmp_path: Path, enrolled: Enrolled) -> None:
    """The keeper writes the new one down behind the change: here only when the TPM is asked the second time."""
    async with tpm_box(tmp_path, enrolled) as box:
        probe = box.probes()[ProbeName.KEY]
        await next(each for each in TAMPERINGS if each.name == "other_key").inject(box)
        real, calls = box.keeper.certify, 0

        async def certify(nonce: bytes) -> Certified:
            nonlocal calls
            calls += 1
            if calls == 2:
                box.pki.enrolled_box.write_bytes((await box.described()).render())
            return await real(nonce)

        box.keeper.certify = certify  # type: ignore[method-assign]
        assert (await seen_by(probe))[0] == NOTHING
        assert calls == 2


async def test_without_a_tpm_or_a_keeper_nothing_is_seen(tmp_path: Path, enrolled: Enrolled) -> None:
    """All three are blind, and say why; nothing is held against the box, and it ends in time."""
    async with tpm_box(tmp_path, enrolled) as box:
        probes = box.probes()
        (box.site.folder / "pcrsig.json").write_bytes(b"not signatures")
        reading = await asked(probes[ProbeName.QUOTE])
        assert (reading.seen, "pcrsig.json" in reading.blind) == ((), True)
        box.tpm.stop()
        for probe in probes.values():
            reading = await asked(probe)
            assert (reading.seen, bool(reading.blind)) == ((), True)
            assert "tpm_absent" in reading.blind

        class Slow(QuoteProbe):
            async def look(self) -> Reading:
                """Never comes back."""
                await trio.sleep_forever()
                raise AssertionError

        class Broken(QuoteProbe):
            async def look(self) -> Reading:
                """Has a defect."""
                raise RuntimeError("a defect")

        for kind, word in ((Slow, "no answer"), (Broken, "a defect")):
            reading = await asked(kind(None, None), 0.05)  # type: ignore[arg-type]
            assert (reading.seen, word in reading.blind) == ((), True)


async def test_a_box_that_is_not_enrolled_is_measured_by_what_was_seen_first(
    tmp_path: Path, enrolled: Enrolled
) -> None:
    """In this boot; another TPM is noticed all the same, and so is one after a restart of the watchdog."""
    async with tpm_box(tmp_path, enrolled) as box:
        box.pki.enrolled_box.unlink()
        probes = box.probes()
        assert (await seen_by(probes[ProbeName.QUOTE]))[0] == NOTHING
        await next(each for each in TAMPERINGS if each.name == "other_tpm").inject(box)
        for probe in (probes[ProbeName.QUOTE], box.probes()[ProbeName.QUOTE]):
            assert (await seen_by(probe))[0] == {Code.QUOTE_FOREIGN}


async def test_a_reset_is_remembered_by_the_next_watchdog(tmp_path: Path, enrolled: Enrolled) -> None:
    """It is killed at once, and another looks; in the next boot it is forgotten."""
    async with tpm_box(tmp_path, enrolled) as box:
        assert (await seen_by(box.probes()[ProbeName.CLOCK]))[0] == NOTHING
        await reset(box)
        for _ in range(2):
            assert (await seen_by(box.probes()[ProbeName.CLOCK]))[0] == {Code.TPM_RESET}
        assert (await seen_by(box.probes("run-of-the-next-boot")[ProbeName.CLOCK]))[0] == NOTHING


async def test_a_wall_clock_in_the_past_is_noted(tmp_path: Path, enrolled: Enrolled) -> None:
    """And no more than that: it is a note."""
    async with tpm_box(tmp_path, enrolled) as box:
        probe = box.probes()[ProbeName.CLOCK]
        box.wall = lambda: time.time() - 3600
        assert (await seen_by(probe))[0] == {Code.CLOCK_IMPLAUSIBLE}
        box.wall = time.time
        assert (await seen_by(probe))[0] == NOTHING


async def test_a_clock_that_stands_still_or_is_set_forward(tmp_path: Path, enrolled: Enrolled) -> None:
    """A real TPM's, against what was written down a minute ago (which is made up here: nobody waits for it)."""
    async with tpm_box(tmp_path, enrolled) as box:
        name, path = ProbeName.CLOCK, tmp_path / "run-watchdog" / CLOCK_FILE
        assert (await seen_by(box.probes()[name]))[0] == NOTHING
        said = json.loads(path.read_bytes())
        ago = {**said, "began_ms": said["began_ms"] - MINUTE, "ended_ms": said["ended_ms"] - MINUTE}
        path.write_text(json.dumps(ago))
        for _ in range(2):
            assert (await seen_by(box.probes()[name]))[0] == {Code.TPM_CLOCK_BACK}
        path.write_text(json.dumps({**ago, "clock_ms": said["clock_ms"] - MINUTE}))
        assert (await seen_by(box.probes()[name]))[0] == NOTHING
        path.write_text(json.dumps({**ago, "clock_ms": said["clock_ms"] - MINUTE}))
        await box.root(lambda device: hours_later(device, 1))
        assert (await seen_by(box.probes()[name]))[0] == {Code.TPM_CLOCK_AHEAD, Code.CLOCK_IMPLAUSIBLE}


MINUTE = 60_000
FIRST = Sample("boot", 1_000_000, 7, 2, 500_000, 500_100)


@pytest.mark.parametrize(
    ("clock_ms", "counts", "passed_ms", "codes"),
    [
        (MINUTE, (7, 2), MINUTE, set()),
        (MINUTE * 2 // 3, (7, 2), MINUTE, set()),
        (0, (7, 2), 20_000, set()),
        (0, (7, 2), MINUTE, {Code.TPM_CLOCK_BACK}),
        (-1, (7, 2), MINUTE, {Code.TPM_CLOCK_BACK}),
        (4 * MINUTE, (7, 2), MINUTE, {Code.TPM_CLOCK_AHEAD}),
        (MINUTE, (8, 0), MINUTE, {Code.TPM_RESET}),
        (MINUTE, (7, 3), MINUTE, {Code.TPM_RESET}),
        (MINUTE, (6, 2), MINUTE, {Code.TPM_RESET}),
    ],
)
def test_rates_and_counts(clock_ms: int, counts: tuple[int, int], passed_ms: int, codes: set[Code]) -> None:
    """What a clock may do in a minute: the rules, without a TPM."""
    now = Sample("boot", FIRST.clock_ms + clock_ms, *counts, FIRST.began_ms + passed_ms, FIRST.ended_ms + passed_ms)
    assert {seen.code for seen in compared(FIRST, FIRST, now)} == codes
