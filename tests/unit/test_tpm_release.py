# SPDX-License-Identifier: Apache-2.0
"""Releases: operators' keys, what must be certified before anybody signs, and mutants, none of which is accepted."""

from __future__ import annotations

import contextlib
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import parse_zone
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.operators import ORDER, load_operator_key, new_operator_key, sign, verifies
from appliance.keys.release import (
    QR_BYTES,
    OperatorSignatures,
    Release,
    ReleaseRequest,
    add_signature,
    check_request,
    new_release,
    verify,
)
from appliance.keys.tpm.policy import BOUND_PCRS, counter_public
from appliance.keys.tpm.public import Attestation, Digest, sha256
from tests.mutants.releases import mutants as foreign_mutants
from tests.releases import EVIDENCE, PCRS, Case, statement


@pytest.fixture(scope="module")
def case() -> Case:
    """Enrolled at counter 6, now at 7; PCRs as enrolled."""
    return Case.make()


def test_any_two_sign_in_any_order(case: Case) -> None:
    """The document is in the policy's order all the same."""
    for signers in ((0, 1), (2, 1), (2, 0)):
        release = case.release(*signers)
        assert Release.parse(release.render()) == release
        x, signatures = verify(case.box.policy, release)
        assert x == case.box.policy.x(7, PCRS)
        assert signatures.pair == tuple(sorted(signers))


def test_one_is_not_enough_and_three_are_too_many(case: Case) -> None:
    """Nor twice the same, nor a stranger."""
    too_few: tuple[tuple[int, ...], ...] = ((), (0,))
    for signers in too_few:
        with pytest.raises(DeniedError, match="bad_release"):
            verify(case.box.policy, case.release(*signers))
    too_many: tuple[tuple[int, ...], ...] = ((0, 0), (0, 1, 2))
    for signers in too_many:
        with pytest.raises(DeniedError, match="bad_release"):
            case.release(*signers)
    with pytest.raises(DeniedError, match="bad_release"):
        add_signature(case.box, case.request, case.release(0), ec.generate_private_key(ec.SECP256R1()))
    doubled = case.release(0)
    with pytest.raises(DeniedError, match="bad_release"):
        verify(case.box.policy, replace(doubled, signatures=doubled.signatures * 2))


def test_nobody_signs_what_is_not_certified(case: Case) -> None:
    """Another counter, other evidence, another key, another kind of statement, changed PCRs."""
    request = case.request
    wrong = [replace(request, counter=8), replace(request, evidence=sha256(b"other"))]
    wrong += [replace(request, zone=parse_zone("plant-b")), replace(request, device=bytes(32))]
    texts = [statement(8, EVIDENCE), statement(7, sha256(b"other")), statement(7, EVIDENCE, kind=0x8018)]
    texts += [statement(7, EVIDENCE, offset=1), statement(7, EVIDENCE) + b"\0", statement(7, EVIDENCE)[:-1], b""]
    texts += [
        b"\0" + statement(7, EVIDENCE)[1:],
        statement(7, EVIDENCE).replace(counter_public().written().name[2:], bytes(32)),
    ]
    wrong += [replace(request, certificate=case.certified(text)) for text in texts]
    stranger = ec.generate_private_key(ec.SECP256R1())
    text = statement(7, EVIDENCE)
    wrong += [replace(request, certificate=Attestation(text, stranger.sign(text, ec.ECDSA(hashes.SHA256()))))]
    wrong += [replace(request, pcrs={**PCRS, pcr: bytes(32)}) for pcr in BOUND_PCRS]
    for bad in wrong:
        with pytest.raises(DeniedError, match="bad_evidence"):
            add_signature(case.box, bad, case.release(0), case.keys[1])
    check_request(case.box, request)
    check_request(case.box, wrong[-1], accept_pcrs=True)  # where the operator knows why
    with pytest.raises(DeniedError, match="bad_release"):
        add_signature(case.box, wrong[-1], case.release(0), case.keys[1], accept_pcrs=True)


def test_nobody_signs_beside_a_bad_signature(case: Case) -> None:
    """The second operator's tool checks the first one's."""
    good = case.release(0)
    (part,) = good.signatures
    for name in ("fresh", "again", "document"):
        bad = replace(good, signatures=(with_signature(part, name, part.document[:-1]),))
        with pytest.raises(DeniedError, match=r"bad_release.*operator 1"):
            add_signature(case.box, case.request, bad, case.keys[1])


def near(text: bytes, seed: int) -> set[bytes]:
    """Texts that differ from a document in a bit, a byte, a field or its form."""
    random_ = random.Random(seed)
    found = {
        text[:place] + bytes([text[place] ^ 1 << random_.randrange(8)]) + text[place + 1 :]
        for place in range(len(text))
    }
    found |= {text + b"\n", text[:-1], b" " + text, text.replace(b"\n", b"\r\n"), json.dumps(json.loads(text)).encode()}
    values = json.loads(text)
    for key, value in values.items():
        found.add(rfc8785.dumps({k: v for k, v in values.items() if k != key}) + b"\n")
        others: tuple[Any, ...] = (None, 7, [], {}, "", f"{value} ")
        found |= {rfc8785.dumps({**values, key: other}) + b"\n" for other in others}
    return found | {rfc8785.dumps({**values, "more": 1}) + b"\n", b"", b"[]\n", b"{}\n"}


def test_no_mutant_of_a_request_is_signed(case: Case) -> None:
    """The original is, in the same run."""
    text = case.request.render()
    assert ReleaseRequest.parse(text) == case.request
    assert len(text) <= QR_BYTES
    found = near(text, 8) - {text}
    assert len(found) >= 200
    for mutant in found:
        with pytest.raises(BsfgError, match=r"bad_document|bad_evidence"):
            new_release(case.box, ReleaseRequest.parse(mutant))
    new_release(case.box, ReleaseRequest.parse(text))


def test_a_box_file_says_what_its_key_is(case: Case) -> None:
    """No text near it is taken for it; only zone and attestation key are not bound by the boundary key's policy."""
    text = case.box.render()
    assert EnrolledBox.parse(text) == case.box
    found = near(text, 9) - {text}
    assert len(found) >= 200
    for mutant in found:
        with contextlib.suppress(RefusedError):
            box = EnrolledBox.parse(mutant)
            same = replace(box, zone=case.box.zone, attestation_key=case.box.attestation_key)
            assert same == replace(case.box, boundary_public=box.boundary_public)
            assert box.fingerprint != case.box.fingerprint
    other = replace(case.box, birth=replace(case.box.birth, counter=7))
    with pytest.raises(RefusedError, match=r"bad_document.*policy"):
        EnrolledBox.parse(other.render())


def other_signature(signature: bytes) -> bytes:
    """The second signature that ECDSA gives away with each."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, ORDER - s)


def with_signature(part: OperatorSignatures, name: str, value: bytes) -> OperatorSignatures:
    """One of the three signatures replaced."""
    values = {"fresh": part.fresh, "again": part.again, "document": part.document, name: value}
    return OperatorSignatures(part.operator, **values)


def mutants(case: Case) -> Iterator[bytes]:
    """Texts near a good release: bytes, fields, signatures, forms."""
    good = case.release(0, 1)
    text = good.render()
    random_ = random.Random(7)
    for place in range(0, len(text), 5):
        yield text[:place] + bytes([text[place] ^ 1 << random_.randrange(8)]) + text[place + 1 :]
        yield text[:place] + text[place + 1 :]
        yield text[:place] + text[place : place + 1] + text[place:]
    yield from (
        text + b"\n",
        text[:-1],
        b" " + text,
        json.dumps(json.loads(text), indent=1).encode(),
        b"",
        b"{}",
        b"[]",
    )
    yield text.replace(b'{"counter"', b'{"counter":"7","counter"')
    yield text.replace(b"\n", b"\r\n")
    first, second = good.signatures
    for pair in ((second, first), (first, first), (first,), (second,), (), (first, second, first)):
        yield replace(good, signatures=pair).render()
    for name in ("fresh", "again", "document"):
        for part in good.signatures:
            value = getattr(part, name)
            other = second if part is first else first
            for bad in (other_signature(value), value + b"\0", b"", getattr(other, name), part.fresh[::-1]):
                changed = with_signature(part, name, bad)
                yield replace(good, signatures=tuple(changed if p is part else p for p in good.signatures)).render()
        for swapped in ("fresh", "again", "document"):
            if swapped != name:
                changed = with_signature(first, name, getattr(first, swapped))
                yield replace(good, signatures=(changed, second)).render()
    fields = [replace(good, counter=n) for n in (0, 6, 8, -7, 7 + (1 << 64))]
    fields += [replace(good, device=bytes(32)), replace(good, evidence=Digest(bytes(32))), replace(good, device=b"")]
    fields += [replace(good, pcrs={**PCRS, pcr: bytes(32)}) for pcr in BOUND_PCRS]
    fields += [replace(good, pcrs={pcr: v for pcr, v in PCRS.items() if pcr != out}) for out in BOUND_PCRS]
    fields += [replace(good, pcrs={**PCRS, 14: bytes(32)})]
    fields += [replace(good, signatures=(replace(first, operator=n), second)) for n in (1, 2, 3, -1)]
    yield from (field.render() for field in fields)
    values = json.loads(text)
    for key in values:
        yield rfc8785.dumps({k: v for k, v in values.items() if k != key}) + b"\n"
        yield rfc8785.dumps({**values, key: None}) + b"\n"
    yield rfc8785.dumps({**values, "more": 1}) + b"\n"
    yield rfc8785.dumps({**values, "format": "bsfg-release-2"}) + b"\n"
    evil = OperatorSignatures(1, *(sign(case.keys[2], message) for message in (b"a", b"b", b"c")))
    yield replace(good, signatures=(first, evil)).render()


def test_no_mutant_is_accepted(case: Case) -> None:
    """The originals are, in the same run."""
    good = case.release(0, 1).render()
    found = set(mutants(case)) - {good}
    assert len(found) >= 200
    accepted = []
    for mutant in found:
        try:
            verify(case.box.policy, Release.parse(mutant))
            accepted.append(mutant)
        except BsfgError as error:
            assert error.reason == "bad_release"  # noqa: PT017 - for thousands of them
    assert accepted == []
    for signers in ((0, 1), (1, 2), (0, 2)):
        verify(case.box.policy, Release.parse(case.release(*signers).render()))


def test_no_release_of_genuine_signatures_over_something_else_is_accepted(case: Case) -> None:
    """Every part of it was signed by an operator once; the original is accepted in the same run."""
    found = foreign_mutants(case, Case.make())
    kinds, accepted = Counter(mutant.kind for mutant in found), []
    for mutant in found:
        try:
            verify(case.box.policy, Release.parse(mutant.data))
            accepted.append(mutant.kind)
        except BsfgError as error:
            assert error.reason == "bad_release"  # noqa: PT017 - for hundreds of them
    assert accepted == []
    assert len(found) >= 300, kinds
    assert min(kinds.values()) >= 10, kinds
    assert len(kinds) == 8
    verify(case.box.policy, Release.parse(case.release(0, 1).render()))


def test_operator_keys_are_encrypted_and_never_overwritten(tmp_path: Path) -> None:
    """With a passphrase that is worth the name."""
    path = tmp_path / "alice.pem"
    public = new_operator_key(path, "correct horse battery")
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_operator_key(path, "correct horse battery").public_key() == public
    for wrong in ("", "correct horse batterz"):
        with pytest.raises(RefusedError, match="bad_key"):
            load_operator_key(path, wrong)
    with pytest.raises(RefusedError, match="bad_input"):
        new_operator_key(path, "correct horse battery")
    with pytest.raises(RefusedError, match="bad_input"):
        new_operator_key(tmp_path / "bob.pem", "short")
    message = b"message"
    for _ in range(20):
        signature = sign(load_operator_key(path, "correct horse battery"), message)
        assert verifies(public, message, signature)
        assert not verifies(public, message, other_signature(signature))
