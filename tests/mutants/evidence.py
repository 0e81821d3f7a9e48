# SPDX-License-Identifier: Apache-2.0
"""Evidence and seals as an attacker might make them, by class, without the originals.

What only a TPM can sign is real: statements over other nonces, of a later counter, of another box. An attacker with
root on the box can have all of these made; none of them fits.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.keys.attestation.quote import one_form
from appliance.keys.keeper.port import Certified, Latched, Quote
from appliance.keys.operators import ORDER, sign
from appliance.keys.tpm.public import Attestation
from appliance.watchdog.evidence.bundle import Bundle, Seal, SourceNote, SourceState, digest_of
from appliance.watchdog.suspicions import SUSPICIONS

Pair = tuple[bytes, bytes]
SLOTS: Final = ("quote", "counter", "key")


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is handed to the verifier. ``kind`` is the class it counts for."""

    kind: str
    bundle: bytes
    seal: bytes


@dataclass(frozen=True, slots=True)
class Material:
    """What an attacker has. :param good: the evidence that is genuine.

    :param others: genuine evidence of this box and of others, which is not this.
    :param elsewhere: what this box's TPM states over other nonces, and over this bundle's digest at a later counter.
    """

    good: Pair
    others: tuple[Pair, ...]
    elsewhere: tuple[tuple[Quote, Certified], ...]


def mutants(material: Material, seed: int = 1) -> list[Mutant]:
    """Distinct mutants of genuine evidence."""
    rng = random.Random(seed)
    bundle, seal = material.good
    found: dict[Pair, Mutant] = {}
    pairs: list[tuple[str, Iterator[Pair]]] = [
        ("bundle: a bit", ((each, seal) for each in _flips(bundle, rng, 3))),
        ("bundle: a length", ((each, seal) for each in _lengths(bundle))),
        ("bundle: another form", ((each, seal) for each in _forms(bundle))),
        ("bundle: a field", ((each, seal) for each in _fields(bundle))),
        ("bundle: another story", ((each.render(), seal) for each in _stories(Bundle.parse(bundle)))),
        ("bundle: sealed by hand", _own_seals(Bundle.parse(bundle), Seal.parse(seal))),
        ("seal: a bit", ((bundle, each) for each in _flips(seal, rng, 3))),
        ("seal: a length", ((bundle, each) for each in _lengths(seal))),
        ("seal: another form", ((bundle, each) for each in _forms(seal))),
        ("seal: a field", ((bundle, each) for each in _fields(seal))),
        ("seal: a bit of a statement", ((bundle, each.render()) for each in _statements(Seal.parse(seal), rng))),
        ("seal: a signature", ((bundle, each.render()) for each in _signatures(Seal.parse(seal)))),
        ("seal: places changed", ((bundle, each.render()) for each in _places(Seal.parse(seal)))),
        ("seal: other nonce or counter", ((bundle, each.render()) for each in _elsewhere(Seal.parse(seal), material))),
        ("mixed: parts of others", _mixed(material)),
    ]
    for kind, made in pairs:
        for pair in made:
            if pair != material.good and pair not in material.others:  # those are genuine
                found.setdefault(pair, Mutant(kind, *pair))
    return list(found.values())


def _flips(data: bytes, rng: random.Random, step: int) -> Iterator[bytes]:
    for at in range(0, len(data), step):
        yield data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


def _lengths(data: bytes) -> Iterator[bytes]:
    yield from (data[: len(data) * part // 24] for part in range(24))
    yield from (data[:-1], data[1:], data + b"\n", data + b"\0", data + data, b" " + data, b"\xef\xbb\xbf" + data)
    for at in range(7, len(data), len(data) // 24):
        yield data[:at] + data[at + 1 :]
        yield data[:at] + data[at : at + 1] + data[at:]


def _forms(data: bytes) -> Iterator[bytes]:
    """The same values, written otherwise."""
    values = json.loads(data)
    yield from (json.dumps(values, indent=indent).encode() for indent in (None, 0, 1, 2, 4))
    yield json.dumps(values).encode() + b"\n"
    yield json.dumps(values, separators=(",", ":")).encode()
    yield json.dumps(dict(reversed(values.items())), separators=(",", ":")).encode() + b"\n"
    yield data.replace(b"\n", b"\r\n")
    yield data.replace(b'":"', b'": "', 1)
    yield data.replace(b'"zone"', b'"\\u007aone"')
    for name, value in values.items():
        entry = f'"{name}":{json.dumps(value)},'.encode()
        yield data.replace(b"{", b"{" + entry, 1)  # twice in one object: readers differ in which one counts


def _fields(data: bytes) -> Iterator[bytes]:
    values = json.loads(data)
    others: tuple[Any, ...] = (None, 7, True, [], {}, "", "0", "x", ["x"], {"x": "x"})
    for name in values:
        yield _canonical({each: value for each, value in values.items() if each != name})
        yield from (_canonical({**values, name: other}) for other in others)
    yield from (_canonical({**values, name: "1"}) for name in ("more", "Zone", "signature"))
    yield from (_canonical({**values, "format": each}) for each in ("bsfg-quarantine-evidence-2", "bsfg-evidence-1"))


def _stories(bundle: Bundle) -> Iterator[Bundle]:
    """Whoever would like the operators to read something else."""
    case = json.loads(bundle.case)
    for code, suspicion in SUSPICIONS.items():
        told = {**case, "code": code.value, "probe": suspicion.probe.value}
        yield replace(bundle, case=_canonical(told))
    for name, value in (("detail", "all is well"), ("boot_id", "0" * 32), ("opened_unix_ms", "1"), ("image", "9.9")):
        yield replace(bundle, case=_canonical({**case, name: value}))
    yield replace(bundle, case=_canonical({**case, "readings": []}))
    yield from (replace(bundle, number=number) for number in range(2, 9))
    yield from (replace(bundle, previous=f"{number:064x}") for number in range(8))
    yield from (replace(bundle, journal=bundle.journal[:end]) for end in range(len(bundle.journal)))
    yield from (replace(bundle, readings=bundle.readings[:end]) for end in range(len(bundle.readings)))
    yield replace(bundle, latch=None)
    if bundle.latch is not None:
        for counter in (0, 1, bundle.latch.counter + 1, 1 << 63):
            yield replace(bundle, latch=Latched(counter, bundle.latch.certificate))
    yield replace(bundle, firewall={}, image={}, files={}, logs=())
    yield replace(bundle, sources=(SourceNote("journal", SourceState.MISSING),))
    yield replace(bundle, boot_id="f" * 32, withheld=1)


def _own_seals(bundle: Bundle, seal: Seal) -> Iterator[Pair]:
    """A changed bundle, and a seal that names its digest; the TPM's statements stay those of the genuine one."""
    for story in _stories(bundle):
        text = story.render()
        yield text, replace(seal, bundle=digest_of(text)).render()
    own = ec.generate_private_key(ec.SECP256R1())
    for story in itertools.islice(_stories(bundle), 40):
        text = story.render()
        forged: dict[str, Any] = {
            slot: _with_nonce(getattr(seal, slot), seal.bundle, digest_of(text), own) for slot in SLOTS
        }
        yield text, replace(seal, bundle=digest_of(text), **forged).render()


def _with_nonce(told: Attestation, before: bytes, after: bytes, key: ec.EllipticCurvePrivateKey) -> Attestation:
    """A statement over another digest, signed by the attacker."""
    statement = told.statement.replace(before, after)
    return Attestation(statement, sign(key, statement))


def _statements(seal: Seal, rng: random.Random) -> Iterator[Seal]:
    """Well-formed documents around statements in which a bit differs."""
    for slot in SLOTS:
        told: Attestation = getattr(seal, slot)
        for changed in _flips(told.statement, rng, 2):
            yield _with(seal, slot, Attestation(changed, told.signature))
    for pcr, value in seal.pcrs.items():
        yield replace(seal, pcrs={**seal.pcrs, pcr: bytes([value[0] ^ 1]) + value[1:]})
        yield replace(seal, pcrs={each: kept for each, kept in seal.pcrs.items() if each != pcr})
        yield replace(seal, pcrs={**seal.pcrs, pcr: value[:31]})


def _with(seal: Seal, slot: str, told: Attestation) -> Seal:
    changed: dict[str, Any] = {slot: told}
    return replace(seal, **changed)


def _signatures(seal: Seal) -> Iterator[Seal]:
    stranger = ec.generate_private_key(ec.SECP256R1())
    for slot in SLOTS:
        told: Attestation = getattr(seal, slot)
        r, s = decode_dss_signature(told.signature)
        for signature in (
            encode_dss_signature(r, ORDER - s),  # as good in the eyes of ECDSA, and not in its one form
            encode_dss_signature(s, r),
            encode_dss_signature(r, s + ORDER),
            encode_dss_signature(0, 0),
            told.signature + b"\0",
            told.signature[:-1],
            b"",
            sign(stranger, told.statement),
        ):
            yield _with(seal, slot, Attestation(told.statement, signature))


def _places(seal: Seal) -> Iterator[Seal]:
    """The TPM's own statements, each in the place of another."""
    told = [getattr(seal, slot) for slot in SLOTS]
    for chosen in itertools.product(told, repeat=len(SLOTS)):
        swapped: dict[str, Any] = dict(zip(SLOTS, chosen, strict=True))
        yield replace(seal, **swapped)


def _elsewhere(seal: Seal, material: Material) -> Iterator[Seal]:
    """What the same TPM states over another nonce, or at a later counter."""
    for quote, certified in material.elsewhere:
        told = {"quote": quote.attestation, "counter": certified.counter, "key": certified.key}
        parts: dict[str, Any] = {
            slot: Attestation(each.statement, one_form(each.signature)) for slot, each in told.items()
        }
        for chosen in _subsets(parts):
            yield replace(seal, **chosen)
            if "quote" in chosen:
                yield replace(seal, pcrs=dict(quote.pcrs), **chosen)


def _mixed(material: Material) -> Iterator[Pair]:
    """Parts of several genuine ones."""
    bundle, seal = material.good
    ours, sealed = Bundle.parse(bundle), Seal.parse(seal)
    for other, other_seal in material.others:
        theirs, their_seal = Bundle.parse(other), Seal.parse(other_seal)
        yield bundle, other_seal
        yield other, seal
        parts = {each.name: getattr(their_seal, each.name) for each in fields(Seal)}
        for chosen in _subsets(parts):
            if len(chosen) < len(parts):
                yield bundle, replace(sealed, **chosen).render()
        for name in ("case", "latch", "journal", "readings", "times", "boot_id", "number", "previous"):
            yield replace(ours, **{name: getattr(theirs, name)}).render(), seal
            yield replace(theirs, **{name: getattr(ours, name)}).render(), other_seal


def _subsets(parts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for size in range(1, len(parts) + 1):
        for names in itertools.combinations(parts, size):
            yield {name: parts[name] for name in names}


def _canonical(values: dict[str, Any]) -> bytes:
    return rfc8785.dumps(values) + b"\n"
