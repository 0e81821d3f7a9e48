# SPDX-License-Identifier: Apache-2.0
"""Attacks on what is signed: no altered voucher, request for a certificate, or proof is accepted; the originals are.

Mutants are counted by class, each text once.
"""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import BsfgError
from appliance.keys.documents import base64_text
from appliance.keys.enrolment.boxside import Papers, ask, prove
from appliance.keys.enrolment.csr import _der, check_request, in_one_form, request_builder
from appliance.keys.enrolment.documents import Challenge, EnrolRequest, Grant, Pending, Refusal
from appliance.keys.enrolment.voucher import Voucher, check_voucher, new_voucher
from appliance.keys.operators import ORDER
from tests.boxes import ADMITTER, DAY_MS, EK_KEYS, NOW_MS, OTHER, PLANT, SimulatedBox, SimulatedKeeper, Site

ENOUGH = 200


def _bytes_mutants(data: bytes, rng: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """What a careless or a blind hand does to bytes."""
    for _ in range(count):
        at, to = sorted(rng.sample(range(len(data)), 2))
        yield "bit", data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        yield "byte", data[:at] + rng.randbytes(1) + data[at + 1 :]
        yield "lost", data[:at] + data[at + 1 :]
        yield "cut off", data[:at]
        yield "doubled", data[:to] + data[at:to] + data[to:]
        yield "put in", data[:at] + rng.randbytes(1) + data[at:]
    for tail in (b"\n", b" ", b"\0", b"x"):
        yield "longer", data + tail
        yield "earlier", tail + data


def _json_mutants(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The same values in another form, and other values in the right one."""
    values = json.loads(data)
    yield "spaces", json.dumps(values).encode() + b"\n"
    yield "indented", json.dumps(values, indent=1).encode() + b"\n"
    for name in values:
        rest = {key: value for key, value in values.items() if key != name}
        yield "order", json.dumps(rest | {name: values[name]}, separators=(",", ":")).encode() + b"\n\n"
        yield "missing", _canonical(rest)
        yield "empty", _canonical(values | {name: ""})
        yield "null", _canonical(values | {name: None})
        yield "another type", _canonical(values | {name: [values[name]]})
        yield "unknown field", _canonical(values | {name + "_": values[name]})
        twice = data.replace(
            b"{", b"{" + json.dumps(name).encode() + b":" + json.dumps(values[name]).encode() + b",", 1
        )
        yield "twice", twice
        if isinstance(values[name], str) and values[name]:
            text: str = values[name]
            yield "upper case", _canonical(values | {name: text.upper()})
            yield "escaped", data.replace(text.encode(), f"\\u{ord(text[0]):04x}{text[1:]}".encode(), 1)
            yield "blank", _canonical(values | {name: text + " "})
            yield "swapped", _canonical(values | {name: text[::-1]})


def _canonical(values: object) -> bytes:
    return json.dumps(values, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode() + b"\n"


def _other_s(signature: bytes) -> bytes:
    """The other signature that plain ECDSA would take as well."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, ORDER - s)


def _attack(
    original: bytes, mutants: Iterator[tuple[str, bytes]], accepts: Callable[[bytes], bool]
) -> tuple[Counter[str], list[str]]:
    """How many distinct mutants there were of each class, and the classes of those that got through."""
    seen, found, through = {original}, Counter[str](), []
    assert accepts(original)
    for kind, mutant in mutants:
        if mutant in seen:
            continue
        seen.add(mutant)
        found[kind] += 1
        if accepts(mutant):
            through.append(kind)
    assert accepts(original)
    return found, through


def _voucher_mutants(good: Voucher, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    data = good.render()
    yield from _bytes_mutants(data, rng, 40)
    yield from _json_mutants(data)
    yield "other s", replace(good, signature=_other_s(good.signature)).render()
    for _ in range(20):
        yield "zone", replace(good, zone=OTHER).render()
        yield "fingerprint", replace(good, fingerprint=rng.randbytes(32).hex()).render()
        yield "serial", replace(good, serial=rng.randbytes(16).hex()).render()
        yield "day", replace(good, expires_unix_ms=good.expires_unix_ms + rng.randrange(1, 10**9)).render()
        stranger = ec.generate_private_key(ec.SECP256R1())
        yield "stranger", new_voucher(stranger, PLANT, good.fingerprint, good.expires_unix_ms).render()
        other = new_voucher(ADMITTER, PLANT, rng.randbytes(32).hex(), good.expires_unix_ms)
        yield "signature of another", replace(good, signature=other.signature).render()
    blob = base64_text(good.signature)
    yield "another base64", data.replace(blob.encode(), blob.replace("=", "").encode(), 1)
    for tail in "ABCD":
        yield "base64 tail", data.replace(blob.encode(), (blob.rstrip("=")[:-1] + tail).encode(), 1)


def test_no_mutant_of_a_voucher_is_taken() -> None:
    """Every byte of a voucher counts, and only its one form is one."""
    box = SimulatedBox()
    good = new_voucher(ADMITTER, PLANT, box.fingerprint, NOW_MS + DAY_MS)

    def accepts(data: bytes) -> bool:
        try:
            check_voucher(Voucher.parse(data), [ADMITTER.public_key()], PLANT, box.fingerprint, NOW_MS)
        except BsfgError:
            return False
        return True

    found, through = _attack(good.render(), _voucher_mutants(good, random.Random(1)), accepts)
    assert through == []
    assert found.total() >= ENOUGH
    assert len(found) >= 15


def _csr_mutants(box: SimulatedBox, good: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    yield from _bytes_mutants(good, rng, 60)
    loaded = x509.load_der_x509_csr(good)
    tbs, algorithm = loaded.tbs_certrequest_bytes, bytes.fromhex("300a06082a8648ce3d040302")
    yield "other s", _der(0x30, tbs + algorithm + _der(0x03, b"\0" + _other_s(loaded.signature)))
    yield (
        "other algorithm",
        _der(0x30, tbs + bytes.fromhex("300a06082a8648ce3d040303") + _der(0x03, b"\0" + loaded.signature)),
    )
    yield (
        "null parameters",
        _der(0x30, tbs + bytes.fromhex("300c06082a8648ce3d0403020500") + _der(0x03, b"\0" + loaded.signature)),
    )
    yield "bits left over", _der(0x30, tbs + algorithm + _der(0x03, b"\1" + loaded.signature))
    for _ in range(20):
        stranger = ec.generate_private_key(ec.SECP256R1())
        yield "another key", _signed(stranger, request_builder(PLANT))
        yield (
            "signature of another",
            _der(
                0x30,
                tbs
                + algorithm
                + _der(0x03, b"\0" + x509.load_der_x509_csr(_signed(stranger, request_builder(PLANT))).signature),
            ),
        )
    key = box.boundary
    wishes = [
        x509.BasicConstraints(ca=True, path_length=None),
        x509.BasicConstraints(ca=False, path_length=None),
        x509.SubjectAlternativeName([x509.DNSName("plant-b-bsfg")]),
        x509.NameConstraints([x509.DNSName("example.org")], None),
    ]
    for wish in wishes:
        yield "wish", _signed(key, request_builder(PLANT).add_extension(wish, critical=True))
    yield "password", _signed(key, request_builder(PLANT).add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"x"))
    yield "other zone", _signed(key, request_builder(OTHER))
    yield "SHA-384", _in_der(request_builder(PLANT).sign(key, hashes.SHA384()))
    big = ec.generate_private_key(ec.SECP384R1())
    yield "P-384", _in_der(request_builder(PLANT).sign(big, hashes.SHA256()))
    yield "RSA", _in_der(request_builder(PLANT).sign(rsa.generate_private_key(65537, 2048), hashes.SHA256()))
    yield "PEM", base64.encodebytes(good)


def _in_der(request: object) -> bytes:
    """As it is signed, in whichever form."""
    data: bytes = request.public_bytes(serialization.Encoding.DER)  # type: ignore[attr-defined]
    return data


def _signed(key: ec.EllipticCurvePrivateKey, builder: object) -> bytes:
    return in_one_form(_in_der(builder.sign(key, hashes.SHA256())))  # type: ignore[attr-defined]


def test_no_mutant_of_a_certificate_request_is_taken() -> None:
    """For this key, signed by it, in its one form, and asking for nothing."""
    box = SimulatedBox()
    good = _signed(box.boundary, request_builder(PLANT))

    def accepts(data: bytes) -> bool:
        try:
            check_request(data, PLANT, box.boundary.public_key())
        except BsfgError:
            return False
        return True

    found, through = _attack(good, _csr_mutants(box, good, random.Random(2)), accepts)
    assert through == []
    assert found.total() >= ENOUGH
    assert len(found) >= 15


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A hub."""
    return Site(tmp_path).init()


async def test_no_mutant_of_a_proof_is_taken(site: Site) -> None:
    """Whatever a stranger alters on the way or on the stick; the original is still good afterwards."""
    await site.own()
    box = SimulatedBox()
    _, proof = await site.dialogue(box, Papers(site.voucher(box).render()))
    _, of_another = await site.dialogue(SimulatedBox(ek=EK_KEYS[1], zone=OTHER))
    values, others = json.loads(proof), json.loads(of_another)

    def mutants() -> Iterator[tuple[str, bytes]]:
        rng = random.Random(3)
        yield from _bytes_mutants(proof, rng, 40)
        yield from _json_mutants(proof)
        for name in values:
            yield "part of another", _canonical(values | {name: others[name]})
            if name not in {"format", "secret"}:
                inner = base64.b64decode(values[name])
                for _ in range(12):
                    at = rng.randrange(len(inner))
                    flipped = inner[:at] + bytes([inner[at] ^ 1 << rng.randrange(8)]) + inner[at + 1 :]
                    yield f"bit in {name}", _canonical(values | {name: base64_text(flipped)})
        for name in ("key_signature", "counter_signature"):
            other = base64_text(_other_s(base64.b64decode(values[name])))
            yield "other s", _canonical(values | {name: other})

    def accepts(data: bytes) -> bool:
        return isinstance(site.answer(data), Grant | Pending)

    found, through = _attack(proof, mutants(), accepts)
    assert through == []
    assert found.total() >= ENOUGH
    assert {f"bit in {name}" for name in values if name not in {"format", "secret"}} <= set(found)
    assert not isinstance(site.answer(proof), Refusal)


async def test_no_altered_request_upsets_the_hub(site: Site) -> None:
    """Whatever stands in its parts, the hub answers; and it enrols nothing but the original."""
    await site.own()
    box, rng = SimulatedBox(), random.Random(4)
    keeper: Any = SimulatedKeeper(box)
    good = EnrolRequest.parse(await ask(keeper, PLANT))
    answered = Counter[str]()
    for name in ("ek_certificate", "ek_public", "ak_public", "boundary_public", "csr"):
        original: bytes = getattr(good, name)
        for _, mutant in _bytes_mutants(original, rng, 8):
            if mutant == original:
                continue
            changed: dict[str, Any] = {name: mutant}
            request = replace(good, **changed).render()
            answer = site.answer(request)
            if isinstance(answer, Challenge) and name != "ak_public":
                answer = site.answer(await prove(keeper, request, answer))
            answered[type(answer).__name__] += 1
    assert answered["Refusal"] >= ENOUGH
    assert set(answered) <= {"Refusal", "Challenge"}
    assert site.office.pending() == []
    assert isinstance(await site.enrol(box), Pending)
