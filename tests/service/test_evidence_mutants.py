# SPDX-License-Identifier: Apache-2.0
"""Attacks on evidence: every part changed, exchanged with another's, or made over something else. None is accepted.

The TPMs are real (software) ones: two boxes, one of which is quarantined twice. Mutants are counted by class.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest
import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.keeper.port import Certified, Quote
from appliance.keys.release import add_signature, new_release
from appliance.keys.release_request import request_of
from appliance.watchdog.evidence import verifying
from appliance.watchdog.evidence.bundle import digest_of
from appliance.watchdog.evidence.verifying import verify
from tests.boxes import OTHER
from tests.evidence import Quarantined, a_case, quarantined, some_sources
from tests.keepers import PEOPLE
from tests.mutants.evidence import Material, Mutant, Pair, mutants

REFUSALS = {Reason.BAD_EVIDENCE, Reason.BAD_DOCUMENT}


@dataclass(frozen=True)
class Attack:
    """Genuine evidence with the box file it belongs to, and everything that is not it."""

    box: EnrolledBox
    good: Pair
    others: tuple[tuple[EnrolledBox, Pair], ...]
    material: Material


async def stated(box: Quarantined, nonce: bytes) -> tuple[Quote, Certified]:
    """What the box's TPM states over a nonce."""
    return await box.keeper.quote(nonce), await box.keeper.certify(nonce)


async def quarantined_again(box: Quarantined) -> Pair:
    """Released by both operators, started anew, and quarantined once more: the counter is one higher."""
    request = await request_of(box.keeper, digest_of(box.bundle))
    signed = new_release(box.box, request)
    for key in PEOPLE:
        signed = add_signature(box.box, request, signed, key)
    await box.keeper.import_release(signed.render())
    await trio.to_thread.run_sync(box.reboot)
    latched = await box.keeper.latch(box.case.digest())
    from appliance.watchdog.evidence.collecting import collect

    bundle, seal = await collect(box.case, latched, box.keeper, some_sources())
    return bundle.render(), seal.render()


@pytest.fixture(scope="module")
def attack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attack]:
    """All that only TPMs can make."""
    with (
        quarantined(tmp_path_factory.mktemp("box")) as box,
        quarantined(tmp_path_factory.mktemp("other"), OTHER) as other,
        quarantined(tmp_path_factory.mktemp("twin")) as twin,  # another TPM, enrolled as the same zone
    ):
        good = (box.bundle, box.seal)
        second = box.again(number=2)
        digest = digest_of(box.bundle)
        nonces = (bytes(32), box.case.digest(), digest_of(second[0]), digest[:16], digest_of(digest))
        elsewhere = [trio.run(stated, box, nonce) for nonce in nonces]
        later = trio.run(quarantined_again, box)
        elsewhere.append(trio.run(stated, box, digest))  # over the genuine digest, at the later counter
        own = ((box.box, second), (box.box, later))
        foreign = ((other.box, (other.bundle, other.seal)), (twin.box, (twin.bundle, twin.seal)))
        pairs = tuple(pair for _, pair in (*own, *foreign))
        yield Attack(box.box, good, (*own, *foreign), Material(good, pairs, tuple(elsewhere)))


@pytest.fixture(scope="module")
def found(attack: Attack) -> list[Mutant]:
    """All mutants; making them takes a while."""
    return mutants(attack.material)


def test_no_mutant_is_accepted(attack: Attack, found: list[Mutant]) -> None:
    """The originals are, in the same run, before and after."""
    verify(*attack.good, attack.box)
    for box, pair in attack.others:
        verify(*pair, box)
    kinds, accepted = Counter(mutant.kind for mutant in found), []
    for mutant in found:
        try:
            verify(mutant.bundle, mutant.seal, attack.box)
            accepted.append(mutant)
        except BsfgError as error:
            assert error.reason in REFUSALS  # noqa: PT017 - for thousands of them
    assert accepted == []
    assert len({(mutant.bundle, mutant.seal) for mutant in found}) == len(found) >= 2000, kinds
    assert len(kinds) == 15
    assert min(kinds.values()) >= 16, kinds
    assert verify(*attack.good, attack.box).findings == ()


@pytest.mark.parametrize("check", ["_check_moment", "_check_key"])
def test_without_a_check_some_mutant_is_accepted(
    attack: Attack, found: list[Mutant], check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each of them is needed, and the mutants reach it."""
    monkeypatch.setattr(verifying, check, lambda *_: None)
    accepted = 0
    for mutant in found:
        if mutant.kind == "seal: other nonce or counter":
            with suppress(BsfgError):
                verify(mutant.bundle, mutant.seal, attack.box)
                accepted += 1
    assert accepted > 0


def test_genuine_evidence_of_another_box_is_not_this_ones(attack: Attack) -> None:
    """Each pair with each box file: only its own."""
    boxes = {id(box): box for box, _ in attack.others}.values()
    accepted = 0
    for box in boxes:
        for owner, pair in attack.others:
            try:
                verify(*pair, box)
                accepted += 1
                assert owner == box
            except BsfgError as error:
                assert error.reason is Reason.BAD_EVIDENCE  # noqa: PT017
                assert owner != box
    assert accepted == 4
    assert a_case(OTHER).zone == OTHER
