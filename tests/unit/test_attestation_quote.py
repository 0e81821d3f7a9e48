# SPDX-License-Identifier: Apache-2.0
"""Quotes and evidence: read strictly, and no mutant is accepted. The TPM is simulated here; not so in tests/service."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.firmware_log import FIRMWARE_LOG_BYTES
from appliance.keys.attestation.quote import check_quote, parse_quote, qualified_name
from appliance.keys.attestation.runtime_log import RUNTIME_LOG_BYTES
from appliance.keys.boundary_time import TpmClock
from appliance.keys.keeper.port import QUOTED_PCRS, Quote
from appliance.keys.operators import ORDER
from appliance.keys.tpm.public import Attestation, name_of
from tests.attesting import NONCE, PLANT, SimulatedTpm, boot, phases

Mutant = tuple[str, Evidence]


@pytest.fixture(scope="module")
def tpm() -> SimulatedTpm:
    """A box that has booted."""
    tpm = SimulatedTpm()
    boot(tpm)
    return tpm


def test_a_quote_is_read(tpm: SimulatedTpm) -> None:
    """Field by field."""
    quote = parse_quote(tpm.statement())
    assert quote.nonce == NONCE
    assert quote.clock == TpmClock(tpm.clock_ms, tpm.resets, tpm.restarts)
    assert (quote.safe, quote.firmware, quote.pcrs) == (True, tpm.firmware, QUOTED_PCRS)
    assert quote.signer == qualified_name(name_of(tpm.ak_public))
    assert not parse_quote(tpm.statement(safe=0)).safe


def test_what_is_not_exactly_a_quote_is_not_read(tpm: SimulatedTpm) -> None:
    """Cut anywhere, longer by anything, or longer than any quote; whoever signed it."""
    whole = tpm.statement()
    for wrong in (*(whole[:size] for size in range(len(whole))), whole + b"\0", tpm.statement(b"n" * 4096)):
        with pytest.raises(DeniedError, match="the quote: "):
            parse_quote(wrong)


def test_evidence_travels_whole(tpm: SimulatedTpm) -> None:
    """And in one form."""
    evidence = tpm.evidence(firmware_log=b"\0\1", runtime_log=phases(SimulatedTpm(), "ready"))
    text = evidence.render()
    assert Evidence.parse(text) == evidence
    for other in (text + b"\n", text.replace(b",", b", "), text[:-1], b"{}\n", b"", b"[]", text.replace(b"-1", b"-2")):
        with pytest.raises(BsfgError, match="bad_document"):
            Evidence.parse(other)


def test_logs_that_are_too_long_to_send_are_left_out(tpm: SimulatedTpm) -> None:
    """The quote is worth more than its explanation."""
    fits, long = (bytes(FIRMWARE_LOG_BYTES), bytes(RUNTIME_LOG_BYTES)), (b"x" * (FIRMWARE_LOG_BYTES + 1), b"")
    for boot_log, runtime_log, kept in ((*fits, fits), (*long, (b"", b"")), (b"y", fits[1] + b"\0", (b"y", b""))):
        evidence = Evidence.of(PLANT, Quote(tpm.quote(), dict(tpm.pcrs), boot_log, runtime_log))
        assert (evidence.firmware_log, evidence.runtime_log) == kept
        assert Evidence.parse(evidence.render()) == evidence
    with pytest.raises(DeniedError, match="bad_evidence"):
        Evidence.of(PLANT, Quote(Attestation(b"", b"no signature"), {}, b"", b""))


def flips(data: bytes, step: int = 1) -> Iterator[bytes]:
    """Every so many bits, one turned over."""
    for at in range(0, len(data) * 8, step):
        yield data[: at // 8] + bytes([data[at // 8] ^ 1 << at % 8]) + data[at // 8 + 1 :]


def resigned(tpm: SimulatedTpm) -> Iterator[tuple[str, bytes]]:
    """Statements that the attestation key did sign, and that are not what was asked for."""
    yield from (("nonce", tpm.statement(other)) for other in (*flips(NONCE, 8), b"", NONCE[:-1], NONCE + b"\0"))
    yield from (("magic", tpm.statement(magic=0xFF544347 ^ 1 << bit)) for bit in range(32))
    yield from (("type", tpm.statement(kind=kind)) for kind in (0x8014, 0x8015, 0x8016, 0x8017, 0x8019, 0x801A, 0, 1))
    yield from (("signer", tpm.statement(signer=signer)) for signer in (b"", tpm.ak_public, name_of(tpm.ak_public)))
    yield from (("safe", tpm.statement(safe=safe)) for safe in (2, 3, 255))
    yield from (("bank", tpm.statement(algorithm=algorithm)) for algorithm in (4, 0xC, 0xD, 0))
    yield from (("banks", tpm.statement(banks=banks)) for banks in (0, 2, 2**32 - 1))
    yield from (("selection", tpm.statement(selected=[p for p in QUOTED_PCRS if p != out])) for out in QUOTED_PCRS)
    yield from (("selection", tpm.statement(selected=[*QUOTED_PCRS, more])) for more in (8, 10, 16, 23))
    yield from (("digest", tpm.statement(digest=digest)) for digest in (b"", bytes(32), bytes(31), bytes(48)))
    yield from (("tail", tpm.statement(tail=tail)) for tail in (b"\0", bytes(8), b"x" * 2000))
    whole = tpm.statement()
    yield from (("cut", whole[:size]) for size in range(0, len(whole), 3))


def mutants(tpm: SimulatedTpm, good: Evidence, rng: random.Random) -> Iterator[Mutant]:
    """Evidence that is not quite the good one, by class."""
    statement, signature = good.quote.statement, good.quote.signature
    for changed in flips(statement):
        yield "bit of the statement", replace(good, quote=Attestation(changed, signature))
    for changed in flips(signature, 3):
        yield "bit of the signature", replace(good, quote=Attestation(statement, changed))
    for kind, changed in resigned(tpm):
        yield f"signed, other {kind}", replace(good, quote=tpm.sign(changed))
    yield from pcr_mutants(good, rng)
    for _ in range(8):
        stranger = SimulatedTpm(pcrs=dict(tpm.pcrs))
        yield "another attestation key", replace(good, quote=stranger.quote())
        yield "another key, same signer", replace(good, quote=stranger.sign(statement))
    r, s = decode_dss_signature(signature)
    for value in (encode_dss_signature(r, ORDER - s), encode_dss_signature(s, r), b"", signature + b"\0"):
        yield "another form of the signature", replace(good, quote=Attestation(statement, value))
    for algorithm in (hashes.SHA384(), hashes.SHA512(), hashes.SHA224()):
        value = tpm.key.sign(statement, ec.ECDSA(algorithm))
        yield "another digest algorithm", replace(good, quote=Attestation(statement, value))


def pcr_mutants(good: Evidence, rng: random.Random) -> Iterator[Mutant]:
    """Other PCR values beside the same quote."""
    for pcr in QUOTED_PCRS:
        for value in (rng.randbytes(32), bytes(32), b"\xff" * 32, b"", good.pcrs[pcr] + b"\0", good.pcrs[pcr][:-1]):
            if value != good.pcrs[pcr]:
                yield "other PCR value", replace(good, pcrs={**good.pcrs, pcr: value})
        yield "PCR left out", replace(good, pcrs={p: v for p, v in good.pcrs.items() if p != pcr})
    for pcr in (8, 10, 16, 23, 31):
        yield "PCR added", replace(good, pcrs={**good.pcrs, pcr: bytes(32)})
    shifted = {**good.pcrs, 0: good.pcrs[0][:-1], 1: good.pcrs[0][-1:] + good.pcrs[1]}
    yield "a byte of one PCR in the next", replace(good, pcrs=shifted)
    yield "PCRs exchanged", replace(good, pcrs={**good.pcrs, 7: good.pcrs[0], 0: good.pcrs[7]})


def test_no_mutant_of_a_quote_is_accepted(tpm: SimulatedTpm) -> None:
    """None of many hundreds; the original is, by the same verifier."""
    good, enrolled = tpm.evidence(), tpm.enrolled()
    tried: dict[str, set[tuple[object, ...]]] = {}
    for kind, mutant in mutants(tpm, good, random.Random(5)):
        tried.setdefault(kind, set()).add((mutant.quote, tuple(sorted(mutant.pcrs.items()))))
        with pytest.raises(DeniedError) as refused:
            check_quote(enrolled, NONCE, mutant.quote, mutant.pcrs)
        assert refused.value.reason is Reason.BAD_EVIDENCE, kind
    assert len(set().union(*tried.values())) >= 1500
    assert len(tried) >= 20
    assert check_quote(enrolled, NONCE, good.quote, good.pcrs).nonce == NONCE


def test_an_older_quote_is_no_answer_to_a_newer_nonce(tpm: SimulatedTpm) -> None:
    """However well it is signed."""
    old = tpm.quote(b"\1" * 32)
    with pytest.raises(DeniedError, match="another nonce"):
        check_quote(tpm.enrolled(), NONCE, old, tpm.pcrs)
    check_quote(tpm.enrolled(), b"\1" * 32, old, tpm.pcrs)
