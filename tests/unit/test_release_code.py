# SPDX-License-Identifier: Apache-2.0
"""The request for release as a short text: it is the very request, and nothing but the box's own is signed."""

from __future__ import annotations

import base64
import random
import re
import zlib
from dataclasses import replace

import pytest

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import parse_zone
from appliance.keys.code_parts import PREFIX, is_code, parts_of
from appliance.keys.release import check_request
from appliance.keys.release_code import ReleaseCode
from appliance.keys.tpm.policy import BoundaryPolicy, DeviceRef
from appliance.keys.tpm.public import Digest
from tests.releases import PCRS, Case

QR_ALPHANUMERIC = re.compile(r"[0-9A-Z $%*+\-./:]*")


@pytest.fixture(scope="module")
def case() -> Case:
    """Its counter is 7, and was 6 at enrolment."""
    return Case.make()


@pytest.fixture(scope="module")
def text(case: Case) -> str:
    """The request as a text."""
    return ReleaseCode.of(case.request).render()


def test_the_text_is_the_request(case: Case, text: str) -> None:
    """Byte for byte, whole and in parts, however somebody pastes them."""
    assert len(text) == 223, "QR version 7, error correction L, holds 224"
    assert QR_ALPHANUMERIC.fullmatch(text)
    assert is_code(text)
    first, second = parts_of(text, 2)
    assert parts_of(text, 1) == (text,)
    assert max(len(first), len(second)) <= 122, "QR version 5, error correction M (ISO/IEC 18004, table 7)"
    wrapped = "\n".join(text[place : place + 30] for place in range(0, len(text), 30))
    for way in (text, f" {text}\r\n", text.lower(), wrapped, f"{first}\n{second}\n", f"{second} {first}{first}"):
        request = ReleaseCode.parse(way).request(case.box)
        assert request == case.request
        check_request(case.box, request)


@pytest.mark.parametrize("counter", [1, 255, 256, (1 << 64) - 1])
def test_every_counter_has_its_text(counter: int) -> None:
    """It takes as many bytes as it needs."""
    code = ReleaseCode(b"dev1", b"pcrs", Digest(bytes(32)), bytes(25), (1, 2), counter)
    assert ReleaseCode.parse(code.render()) == code


def test_other_boxes_and_changed_pcrs_are_told(case: Case, text: str) -> None:
    """In words, before any signature is looked at."""
    code = ReleaseCode.parse(text)
    with pytest.raises(DeniedError, match="another box"):
        code.request(replace(case.box, birth=replace(case.box.birth, policy=_other_device(case))))
    with pytest.raises(DeniedError, match="PCRs changed"):
        ReleaseCode.of(replace(case.request, pcrs={**PCRS, 12: bytes(32)})).request(case.box)
    other = replace(case.box, attestation_key=Case.make().attestation_key.public_key())
    with pytest.raises(DeniedError, match="not certified"):
        check_request(other, code.request(other))
    with pytest.raises(DeniedError, match="another box"):
        check_request(replace(case.box, zone=parse_zone("plant-b")), code.request(case.box))


def _other_device(case: Case) -> BoundaryPolicy:
    return replace(case.box.policy, device=DeviceRef(bytes(32)))


def test_a_request_that_is_not_certified_has_no_text(case: Case) -> None:
    """What the box draws is what operators can sign."""
    for request in (
        replace(case.request, counter=8),
        replace(case.request, evidence=Digest(bytes(32))),
        replace(case.request, certificate=replace(case.request.certificate, signature=b"none")),
    ):
        with pytest.raises(DeniedError):
            ReleaseCode.of(request)


def forged(text: str, change: object) -> str:
    """The text with other bytes, and a CRC that fits them."""
    body = text.removeprefix(PREFIX)
    data = bytearray(base64.b32decode(body + "=" * (-len(body) % 8))[:-4])
    change(data)  # type: ignore[operator]
    return PREFIX + base64.b32encode(bytes(data) + zlib.crc32(data).to_bytes(4)).decode().rstrip("=")


def test_forged_texts_are_not_signed(case: Case, text: str) -> None:
    """Every bit that matters is under the signature or compared; a bit of the CRC's own is found by the CRC."""
    seen: set[str] = set()
    for place in range(130):
        for bit in (1, 128):

            def flip(data: bytearray, place: int = place, bit: int = bit) -> None:
                data[place] ^= bit

            seen.add(forged(text, flip))
    rng = random.Random(5)
    for _ in range(200):
        place = rng.randrange(len(PREFIX), len(text))
        seen.add(text[:place] + rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567018:/ ") + text[place + 1 :])
    seen |= {forged(text, lambda data: data.extend(b"\0")), forged(text, lambda data: data.insert(129, 0))}
    seen -= {text}
    first, second = parts_of(text, 2)
    other = parts_of(ReleaseCode.of(Case.make().request).render(), 2)
    seen |= {first, second, f"{first}\n{other[1]}", f"{first}{second}{other[1]}"}
    seen |= {text[:-1], f"{text}A", f"{text}{text}A"}
    seen |= {"", PREFIX, f"x{text}", text.replace("R1", "R2"), "A" * 3000, f"{PREFIX}3/2:AA", f"{PREFIX}0/1:AA"}
    accepted = []
    for mutant in seen:
        try:
            request = ReleaseCode.parse(mutant).request(case.box)
            check_request(case.box, request)
        except (RefusedError, DeniedError):
            continue
        except BsfgError as error:  # pragma: no cover - named, so that it is seen
            raise AssertionError(f"{mutant}: {error}") from error
        if request != case.request:
            accepted.append(mutant)
    assert len(seen) > 450
    assert accepted == []
    check_request(case.box, ReleaseCode.parse(text).request(case.box))
