# SPDX-License-Identifier: Apache-2.0
"""Reference measurements: read in one form, no mutant is accepted, and no old file or old image comes back."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.measurements import IMAGES, VALUES, Image, Measurements
from appliance.keys.documents import render_document
from appliance.keys.tpm.policy import START, policy_pcr
from tests.attesting import IMAGE_KEY, SimulatedTpm, boot

PUBLIC = IMAGE_KEY.public_key()
MODULUS = PUBLIC.public_numbers().n


def image(number: int, seed: int = 0) -> Image:
    """An image with made-up values: two for PCR 11, one for PCR 4."""
    rng = random.Random(number * 1000 + seed)
    return Image(f"1.{number}.0", number, {4: (rng.randbytes(32),), 11: (rng.randbytes(32), rng.randbytes(32))})


@pytest.fixture(scope="module")
def good() -> Measurements:
    """Three images; the first may no longer run."""
    return Measurements(5, 2, (image(1), image(2), image(3))).sign(IMAGE_KEY)


def test_a_file_is_read_as_it_was_written(good: Measurements) -> None:
    """And its signature holds."""
    read = Measurements.parse(good.render())
    assert read == good
    assert read.follows(None, PUBLIC) is read


def test_images_are_found_by_their_pcrs(good: Measurements) -> None:
    """Any of the values of a phase; all PCRs of one image; the newest of several."""
    second = good.images[1]
    for phase in second.pcrs[11]:
        assert good.image_of({4: second.pcrs[4][0], 11: phase, 7: bytes(32)}) == second
    assert good.image_of({4: second.pcrs[4][0], 11: good.images[0].pcrs[11][0]}) is None
    assert good.image_of({11: second.pcrs[11][0]}) is None
    same = replace(second, number=9, version="9")
    assert replace(good, images=(*good.images, same)).image_of({4: second.pcrs[4][0], 11: second.pcrs[11][0]}) == same


def test_what_was_seen_is_not_taken_back(good: Measurements) -> None:
    """Neither a smaller serial nor a smaller minimum; the same again is fine."""
    good.follows(good, PUBLIC)
    replace(good, serial=6, minimum=3).sign(IMAGE_KEY).follows(good, PUBLIC)
    for older in (replace(good, serial=4), replace(good, serial=6, minimum=1)):
        with pytest.raises(DeniedError, match="were seen"):
            older.sign(IMAGE_KEY).follows(good, PUBLIC)
        older.sign(IMAGE_KEY).follows(None, PUBLIC)


def signature_mutants(good: Measurements) -> Iterator[tuple[str, Measurements]]:
    """Signatures that are not this key's over this."""
    signature = good.signature
    for at in range(0, len(signature) * 8, 13):
        changed = signature[: at // 8] + bytes([signature[at // 8] ^ 1 << at % 8]) + signature[at // 8 + 1 :]
        yield "bit of the signature", replace(good, signature=changed)
    stranger = rsa.generate_private_key(65537, 2048)
    yield "another key", good.sign(stranger)
    statement = b"bsfg measurements\0"
    others = (
        IMAGE_KEY.sign(policy_pcr(START, {11: bytes(32)}), padding.PKCS1v15(), hashes.SHA256()),
        IMAGE_KEY.sign(statement, padding.PKCS1v15(), hashes.SHA256()),
        IMAGE_KEY.sign(good.render(), padding.PKCS1v15(), hashes.SHA256()),
        b"",
        signature[1:],
        signature + b"\0",
        b"\0" + signature,
        (int.from_bytes(signature) + MODULUS).to_bytes(257),
        bytes(256),
        (1).to_bytes(256),
    )
    yield from (("another signature", replace(good, signature=other)) for other in others)


def content_mutants(good: Measurements, rng: random.Random) -> Iterator[tuple[str, Measurements]]:
    """Other content under the same signature."""
    for serial in (*range(5), *range(6, 40)):
        yield "serial", replace(good, serial=serial)
    for minimum in (0, 1, 3, 4, 100):
        yield "minimum", replace(good, minimum=minimum)
    for position, one in enumerate(good.images):
        rest = good.images[:position] + good.images[position + 1 :]
        yield "image left out", replace(good, images=rest)
        for other in (replace(one, version="9"), replace(one, number=one.number + 10)):
            changed = sorted((*rest, other), key=lambda image: image.number)
            yield "image renamed", replace(good, images=tuple(changed))
        for pcr, values in one.pcrs.items():
            for at in range(0, 256, 8):
                bad = bytes([values[0][at // 8] ^ 1 << rng.randrange(8)])
                value = values[0][: at // 8] + bad + values[0][at // 8 + 1 :]
                pcrs = {**one.pcrs, pcr: (value, *values[1:])}
                images = (*good.images[:position], replace(one, pcrs=pcrs), *good.images[position + 1 :])
                yield "value", replace(good, images=images)
        more = replace(one, pcrs={**one.pcrs, 11: (*one.pcrs[11], rng.randbytes(32))})
        yield "value added", replace(good, images=(*good.images[:position], more, *good.images[position + 1 :]))
    yield "image added", replace(good, images=(*good.images, image(4)))
    yield "no images", replace(good, images=())


def text_mutants(good: Measurements, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Other bytes."""
    text = good.render()
    for at in rng.sample(range(len(text) * 8), 600):
        yield "bit", text[: at // 8] + bytes([text[at // 8] ^ 1 << at % 8]) + text[at // 8 + 1 :]
    for size in range(0, len(text), 37):
        yield "cut", text[:size]
    yield "longer", text + b"\n"
    yield "spaced", text.replace(b",", b", ")
    yield "doubled", text.replace(b'"minimum":2', b'"minimum":2,"minimum":2')
    yield "unknown field", text.replace(b'{"format"', b'{"a":1,"format"')
    yield "other format", text.replace(b"measurements-1", b"measurements-2")


def test_no_mutant_of_a_file_is_accepted(good: Measurements) -> None:
    """The original is, by the same reader and key."""
    tried: dict[str, set[bytes]] = {}
    rng = random.Random(17)
    texts = [*text_mutants(good, rng)]
    texts += [(kind, mutant.render()) for kind, mutant in (*signature_mutants(good), *content_mutants(good, rng))]
    for kind, text in texts:
        tried.setdefault(kind, set()).add(text)
        with pytest.raises(BsfgError) as refused:
            Measurements.parse(text).follows(None, PUBLIC)
        assert refused.value.reason in {Reason.BAD_DOCUMENT, Reason.BAD_MEASUREMENTS, Reason.BAD_NAME}, kind
    assert good.render() not in set().union(*tried.values())
    assert len(set().union(*tried.values())) >= 800
    assert len(tried) >= 15
    assert Measurements.parse(good.render()).follows(None, PUBLIC) == good


def with_image(**changes: Any) -> dict[str, Any]:
    """A file with one image, some of whose fields are changed."""
    one: dict[str, Any] = {"version": "1", "number": 1, "pcrs": {"11": ["00" * 32]}, **changes}
    return {"images": [{name: value for name, value in one.items() if value is not ...}]}


MALFORMED: dict[str, dict[str, Any]] = {
    "no image PCR": with_image(pcrs={"4": ["00" * 32]}),
    "a PCR of the firmware": with_image(pcrs={"11": ["00" * 32], "0": ["00" * 32]}),
    "a PCR of enrolment": with_image(pcrs={"11": ["00" * 32], "7": ["00" * 32]}),
    "PCR 011": with_image(pcrs={"011": ["00" * 32]}),
    "no values": with_image(pcrs={"11": []}),
    "too many values": with_image(pcrs={"11": [f"{n:064x}" for n in range(VALUES + 1)]}),
    "a short value": with_image(pcrs={"11": ["00"]}),
    "capitals": with_image(pcrs={"11": ["AA" * 32]}),
    "a value that is a number": with_image(pcrs={"11": [0]}),
    "values that are text": with_image(pcrs={"11": "00" * 32}),
    "pcrs that are a list": with_image(pcrs=[]),
    "no version": with_image(version=...),
    "an empty version": with_image(version=""),
    "a long version": with_image(version="1" * 65),
    "a version with a line break": with_image(version="1\n"),
    "a version with a space": with_image(version="1 2"),
    "a version that is no ASCII": with_image(version="1\u00e6"),
    "a number that is text": with_image(number="1"),
    "a number that is true": with_image(number=True),
    "a negative number": with_image(number=-1),
    "a large number": with_image(number=2**31),
    "an unknown field": with_image(other=1),
    "an image that is none": {"images": [1]},
    "images in disorder": {
        "images": [{"version": "1", "number": n, "pcrs": {"11": ["00" * 32]}} for n in (2, 1)],
    },
    "two of one number": {
        "images": [{"version": v, "number": 1, "pcrs": {"11": ["00" * 32]}} for v in ("1", "2")],
    },
    "too many images": {
        "images": [{"version": "1", "number": n, "pcrs": {"11": ["00" * 32]}} for n in range(IMAGES + 1)],
    },
    "a negative serial": {"serial": -1},
    "a minimum that is no number": {"minimum": 1.5},
    "a signature that is no base64": {"signature": "?"},
}


@pytest.mark.parametrize("changes", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_such_file_is_refused(good: Measurements, changes: dict[str, Any]) -> None:
    """Whoever signed it."""
    values = {**json.loads(good.render()), **changes}
    with pytest.raises(BsfgError, match="bad_document"):
        Measurements.parse(render_document(values))


def test_a_booted_image_is_known() -> None:
    """From the simulated boot to the file and back."""
    tpm = SimulatedTpm()
    boot(tpm)
    known = Image("1.0.0", 1, {pcr: (tpm.pcrs[pcr],) for pcr in (4, 9, 11)})
    file = Measurements(1, 1, (known,)).sign(IMAGE_KEY)
    assert file.image_of(tpm.pcrs) == known
    tpm.extend(9, bytes(32))
    assert file.image_of(tpm.pcrs) is None
