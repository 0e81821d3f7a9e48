# SPDX-License-Identifier: Apache-2.0
"""Releases whose signatures are genuine and over something else, by class: what two careless operators once signed.

Random damage to a release is in ``tests/unit/test_tpm_release.py``; here every part was made by an operator's key.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.keys.documents import document_statement, sign_document
from appliance.keys.operators import sign
from appliance.keys.release import OperatorSignatures, Release
from appliance.keys.tpm.policy import BOUND_PCRS
from appliance.keys.tpm.public import sha256
from tests.releases import PCRS, Case

PARTS: Final = ("fresh", "again", "document")


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is handed in. ``kind`` is the class it counts for."""

    kind: str
    data: bytes


def mutants(case: Case, other: Case) -> list[Mutant]:
    """Distinct ones, none of which two operators signed as it is. :param other: a box of other operators."""
    good = case.release(0, 1)
    found: dict[bytes, Mutant] = {}
    made: tuple[tuple[str, Iterator[Release]], ...] = (
        ("signatures over another counter", _transplanted(case, good, _counters(good))),
        ("signatures over other evidence", _transplanted(case, good, _evidences(good))),
        ("signatures over other PCRs", _transplanted(case, good, _pcrs(good))),
        ("values of another release", (replace(each, signatures=good.signatures) for each in _others(good))),
        ("one operator and a stranger", _strangers(case, good)),
        ("operators of another box", _foreign(case, other, good)),
        ("one operator in two places", _doubled(case, good)),
        ("signed as another kind of document", _kinds(case, good)),
    )
    for kind, releases in made:
        for release in releases:
            data = release.render()
            if data != good.render():
                found.setdefault(data, Mutant(kind, data))
    return list(found.values())


def _signed(case: Case, release: Release, operator: int, key: ec.EllipticCurvePrivateKey) -> OperatorSignatures:
    """What an operator's tool would make of this release, without any of its checks."""
    fresh, again = case.box.policy.release_messages(case.box.policy.x(release.counter, release.pcrs))
    document = sign_document(key, "release", release._values())
    return OperatorSignatures(operator, sign(key, fresh), sign(key, again), document)


def _counters(good: Release) -> Iterator[Release]:
    return (replace(good, counter=counter) for counter in (1, 5, 6, 8, 9, 70, 1 << 32, (1 << 64) - 1))


def _evidences(good: Release) -> Iterator[Release]:
    return (replace(good, evidence=sha256(b"other %d" % number)) for number in range(8))


def _pcrs(good: Release) -> Iterator[Release]:
    return (replace(good, pcrs={**PCRS, pcr: bytes([value]) * 32}) for pcr in BOUND_PCRS for value in (0, 255))


def _others(good: Release) -> Iterator[Release]:
    yield from itertools.chain(_counters(good), _evidences(good), _pcrs(good))
    yield from (replace(good, device=sha256(b"box %d" % number)) for number in range(8))


def _transplanted(case: Case, good: Release, others: Iterator[Release]) -> Iterator[Release]:
    """Parts of signatures over another release in this one, in each place.

    What the TPM checks (``fresh``, ``again``) does not know the evidence; the document's signature does.
    """
    for other in others:
        theirs = tuple(_signed(case, other, place, case.keys[place]) for place in (0, 1))
        for place, size in itertools.product((0, 1), (1, 2, 3)):
            for names in itertools.combinations(PARTS, size):
                if (other.counter, other.pcrs) == (good.counter, good.pcrs) and "document" not in names:
                    continue
                parts: dict[str, Any] = {name: getattr(theirs[place], name) for name in names}
                signatures = list(good.signatures)
                signatures[place] = replace(signatures[place], **parts)
                yield replace(good, signatures=tuple(signatures))


def _strangers(case: Case, good: Release) -> Iterator[Release]:
    """The second operator's place, taken by keys that are nobody's, or by parts of them."""
    for _ in range(4):
        key = ec.generate_private_key(ec.SECP256R1())
        strangers = [_signed(case, replace(good, signatures=()), place, key) for place in (1, 2)]
        yield from (replace(good, signatures=(good.signatures[0], stranger)) for stranger in strangers)
        for name in PARTS:
            part: dict[str, Any] = {name: getattr(strangers[0], name)}
            yield replace(good, signatures=(good.signatures[0], replace(good.signatures[1], **part)))


def _foreign(case: Case, other: Case, good: Release) -> Iterator[Release]:
    """Two of three who may release another box: the whole of their release, and their signatures over ours."""
    yield from (other.release(*pair) for pair in ((0, 1), (0, 2), (1, 2)))
    for first, second in ((0, 1), (0, 2), (1, 2)):
        theirs = tuple(
            _signed(case, replace(good, signatures=()), place, other.keys[place]) for place in (first, second)
        )
        yield replace(good, signatures=theirs)
        yield replace(good, signatures=(good.signatures[0], theirs[1]))
        yield replace(good, signatures=(theirs[0], good.signatures[1]))


def _doubled(case: Case, good: Release) -> Iterator[Release]:
    """One operator signs twice, for themselves and for another."""
    for signer, place in itertools.permutations(range(3), 2):
        own = _signed(case, replace(good, signatures=()), signer, case.keys[signer])
        again = _signed(case, replace(good, signatures=()), place, case.keys[signer])
        yield replace(good, signatures=tuple(sorted((own, again), key=lambda part: part.operator)))
        yield replace(good, signatures=(own, own))


def _kinds(case: Case, good: Release) -> Iterator[Release]:
    """Right values under the name of another document: a voucher, measurements, a release of another form."""
    for place, kind in itertools.product((0, 1), ("voucher", "measurements", "evidence", "Release", "release\0", "")):
        value = sign(case.keys[place], document_statement(kind, good._values()))
        signatures = list(good.signatures)
        signatures[place] = replace(signatures[place], document=value)
        yield replace(good, signatures=tuple(signatures))
