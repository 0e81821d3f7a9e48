# SPDX-License-Identifier: Apache-2.0
"""What a hub checks of a box: each thing that can be wrong is refused, with a reason of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.quote import one_form
from appliance.keys.enrolment import boxside
from appliance.keys.enrolment.csr import in_one_form, request_builder
from appliance.keys.enrolment.documents import Challenge, EnrolRequest, Proof, Refusal, parse_answer
from appliance.keys.tpm.policy import BOUND_PCRS, Operators
from appliance.keys.tpm.public import BOUNDARY, Attestation, ObjectAttribute, ecdsa_public_of, name_of
from tests.boxes import EK_KEYS, HUB, NOW_MS, OPERATORS, OTHER, VENDOR, SimulatedBox, SimulatedKeeper, Site, Vendor
from tests.tpm import people


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A hub."""
    return Site(tmp_path_factory.mktemp("site")).init()


def _ec_certified(_: SimulatedBox) -> bytes:
    return VENDOR.certify(ec.generate_private_key(ec.SECP256R1()).public_key())


REQUESTS: dict[str, tuple[Callable[[SimulatedBox], bytes], Reason]] = {
    "no certificate": (lambda _: b"", Reason.EK_UNCERTIFIED),
    "certificate of another TPM": (lambda _: VENDOR.certify(EK_KEYS[1].public_key()), Reason.EK_MISMATCH),
    "certificate of another kind of key": (_ec_certified, Reason.EK_MISMATCH),
    "no certificate at all": (lambda _: b"\x30\x03abc", Reason.EK_MISMATCH),
    "unknown vendor": (lambda box: Vendor("stranger").certify(box.ek.public_key()), Reason.EK_UNKNOWN_VENDOR),
    "same name, another key": (lambda box: Vendor("vendor").certify(box.ek.public_key()), Reason.EK_UNKNOWN_VENDOR),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_an_endorsement_that_does_not_hold_is_refused_at_once(site: Site, name: str) -> None:
    """Before any challenge, with its own reason."""
    make, reason = REQUESTS[name]
    box = SimulatedBox()
    box.ek_certificate = make(box)
    keeper: Any = SimulatedKeeper(box)
    answer = site.answer(await boxside.ask(keeper, box.zone))
    assert isinstance(answer, Refusal)
    assert answer.reason is reason


class Careless(SimulatedBox):
    """A box whose boundary key has other attributes, or an attestation key that signs anything."""

    attributes = BOUNDARY
    ak_attributes: ObjectAttribute | None = None

    @property
    def boundary_public(self) -> bytes:
        """With the attributes that a test chose."""
        return ecdsa_public_of(self.boundary.public_key(), self.attributes, self.birth.auth_policy)

    @property
    def ak_public(self) -> bytes:
        """With the attributes that a test chose."""
        usual = super().ak_public
        if self.ak_attributes is None:
            return usual
        return ecdsa_public_of(self.key.public_key(), self.ak_attributes)


def _of(**changes: Any) -> Callable[[], SimulatedBox]:
    return lambda: SimulatedBox(**changes)


def _with_password() -> SimulatedBox:
    box = Careless()
    box.attributes = BOUNDARY | ObjectAttribute.USER_WITH_AUTH
    return box


def _movable() -> SimulatedBox:
    box = Careless()
    box.attributes = BOUNDARY & ~ObjectAttribute.FIXED_TPM
    return box


def _loose_attestation() -> SimulatedBox:
    box = Careless()
    box.ak_attributes = BOUNDARY | ObjectAttribute.USER_WITH_AUTH
    return box


def _other_pcrs() -> SimulatedBox:
    box = SimulatedBox()
    box.extend(7, bytes(32))
    return box


def _other_policy() -> SimulatedBox:
    class Liar(SimulatedBox):
        @property
        def boundary_public(self) -> bytes:
            return ecdsa_public_of(self.boundary.public_key(), BOUNDARY, bytes(32))

    return Liar()


STRANGER = rsa.generate_private_key(65537, 2048).public_key()
BOXES: dict[str, tuple[Callable[[], SimulatedBox], Reason, str]] = {
    "key with a password": (_with_password, Reason.BAD_PROOF, "attributes or the policy"),
    "key that can leave the TPM": (_movable, Reason.BAD_PROOF, "attributes or the policy"),
    "key with another policy": (_other_policy, Reason.BAD_PROOF, "attributes or the policy"),
    "attestation key that signs anything": (_loose_attestation, Reason.BAD_PROOF, "attestation key"),
    "strange operators": (_of(operators=people(2)[1]), Reason.BAD_PROOF, "operators"),
    "one strange operator": (
        _of(operators=Operators((OPERATORS.keys[0], people(2)[1].keys[0]))),
        Reason.BAD_PROOF,
        "operators",
    ),
    "strange image builder": (_of(image_key=STRANGER), Reason.BAD_PROOF, "builder"),
    "counter beyond birth": (_of(counter=2), Reason.BOX_QUARANTINED, "counter 2"),
    "PCRs other than at birth": (_other_pcrs, Reason.BAD_PROOF, "PCR 7"),
}


@pytest.mark.parametrize("name", BOXES)
async def test_a_box_that_is_not_as_it_must_be_is_refused(site: Site, name: str) -> None:
    """Its key, its policy, its state."""
    make, reason, words = BOXES[name]
    box = make()
    keeper: Any = SimulatedKeeper(box)
    request = await boxside.ask(keeper, box.zone)
    answer = site.answer(request)
    if isinstance(answer, Challenge):
        answer = site.answer(await boxside.prove(keeper, request, answer))
    assert isinstance(answer, Refusal)
    assert answer.reason is reason
    assert words in answer.detail


@dataclass
class Open:
    """A challenge that waits for its proof."""

    site: Site
    box: SimulatedBox
    request: bytes
    challenge: Challenge
    proof: Proof

    @classmethod
    async def of(cls, site: Site, box: SimulatedBox | None = None) -> Open:
        """Asked, and answered rightly."""
        box = box or SimulatedBox()
        keeper: Any = SimulatedKeeper(box)
        request = await boxside.ask(keeper, box.zone)
        challenge = site.answer(request)
        assert isinstance(challenge, Challenge)
        return cls(site, box, request, challenge, Proof.parse(await boxside.prove(keeper, request, challenge)))

    def signed(self, statement: bytes) -> Attestation:
        """By the attestation key."""
        return self.box.sign(statement)


def _csr(key: ec.EllipticCurvePrivateKey, builder: Any) -> bytes:
    request = builder.sign(key, hashes.SHA256())
    data: bytes = request.public_bytes(serialization.Encoding.DER)
    return data


def _stranger_certifies(case: Open) -> Proof:
    key = ec.generate_private_key(ec.SECP256R1())
    statement = case.box.key_statement(case.challenge.nonce)
    return replace(case.proof, key=Attestation(statement, one_form(key.sign(statement, ec.ECDSA(hashes.SHA256())))))


def _other_name(case: Open) -> Proof:
    other = name_of(ecdsa_public_of(ec.generate_private_key(ec.SECP256R1()).public_key()))
    return replace(case.proof, key=case.signed(case.box.key_statement(case.challenge.nonce, other)))


def _other_index(case: Open) -> Proof:
    statement = case.box.counter_statement(case.challenge.nonce, name=b"\0\x0b" + bytes(32))
    return replace(case.proof, counter=case.signed(statement))


def _other_evidence(case: Open) -> Proof:
    return replace(case.proof, evidence=replace(case.proof.evidence, zone=OTHER))


def _pcrs_not_quoted(case: Open) -> Proof:
    pcrs = {**case.proof.evidence.pcrs, 11: bytes([1]) * 32}
    return replace(case.proof, evidence=replace(case.proof.evidence, pcrs=pcrs))


PROOFS: dict[str, tuple[Callable[[Open], Proof], Reason, str]] = {
    "another secret": (lambda c: replace(c.proof, secret=bytes(32)), Reason.BAD_PROOF, "did not open"),
    "another token": (lambda c: replace(c.proof, token=bytes(100)), Reason.CHALLENGE_EXPIRED, "never asked"),
    "short token": (lambda c: replace(c.proof, token=b""), Reason.CHALLENGE_EXPIRED, "never asked"),
    "certified by a stranger": (_stranger_certifies, Reason.BAD_PROOF, "certify: not signed"),
    "another key certified": (_other_name, Reason.BAD_PROOF, "another key"),
    "key over another nonce": (
        lambda c: replace(c.proof, key=c.signed(c.box.key_statement(bytes(32)))),
        Reason.BAD_PROOF,
        "another nonce",
    ),
    "no certificate of a key": (
        lambda c: replace(c.proof, key=c.proof.counter),
        Reason.BAD_PROOF,
        "is a nv",
    ),
    "counter over another nonce": (
        lambda c: replace(c.proof, counter=c.signed(c.box.counter_statement(bytes(32)))),
        Reason.BAD_PROOF,
        "another nonce",
    ),
    "another index certified": (_other_index, Reason.BAD_PROOF, "another index"),
    "another counter certified": (
        lambda c: replace(c.proof, counter=c.signed(c.box.counter_statement(c.challenge.nonce, value=9))),
        Reason.BOX_QUARANTINED,
        "counter 9",
    ),
    "quote over another nonce": (
        lambda c: replace(c.proof, evidence=c.box.evidence(bytes(32))),
        Reason.BAD_EVIDENCE,
        "nonce",
    ),
    "quote said to be another zone's": (_other_evidence, Reason.BAD_PROOF, "another zone"),
    "PCRs that were not quoted": (_pcrs_not_quoted, Reason.BAD_EVIDENCE, "not those that were quoted"),
    "a statement no TPM generated": (
        lambda c: replace(c.proof, key=c.signed(b"\0" + c.box.key_statement(c.challenge.nonce)[1:])),
        Reason.BAD_PROOF,
        "not a statement",
    ),
}


@pytest.mark.parametrize("name", PROOFS)
async def test_a_proof_that_does_not_hold_is_refused(site: Site, name: str) -> None:
    """Each part of it, while all others are good."""
    change, reason, words = PROOFS[name]
    case = await Open.of(site)
    answer = parse_answer(site.office.answer(change(case).render()))
    assert isinstance(answer, Refusal)
    assert (answer.reason, words in answer.detail) == (reason, True), answer


def _request_with(**changes: Any) -> Callable[[SimulatedBox, EnrolRequest], EnrolRequest]:
    return lambda _, request: replace(request, **changes)


def _other_csr(box: SimulatedBox, request: EnrolRequest) -> EnrolRequest:
    return replace(request, csr=in_one_form(_csr(ec.generate_private_key(ec.SECP256R1()), request_builder(box.zone))))


def _csr_of_other_zone(box: SimulatedBox, request: EnrolRequest) -> EnrolRequest:
    return replace(request, csr=in_one_form(_csr(box.boundary, request_builder(OTHER))))


def _csr_with_wishes(box: SimulatedBox, request: EnrolRequest) -> EnrolRequest:
    builder = request_builder(box.zone).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    return replace(request, csr=in_one_form(_csr(box.boundary, builder)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_other_csr, "another key"),
        (_csr_of_other_zone, "asks for more"),
        (_csr_with_wishes, "asks for more"),
        (_request_with(csr=b"0"), "certificate request"),
        (_request_with(ak_public=b"0"), "attestation key"),
    ],
)
async def test_a_request_that_does_not_hold_is_refused(
    site: Site, change: Callable[[SimulatedBox, EnrolRequest], EnrolRequest], words: str
) -> None:
    """What the box asks to be certified is what its TPM certifies."""
    box = SimulatedBox()
    keeper: Any = SimulatedKeeper(box)
    request = change(box, EnrolRequest.parse(await boxside.ask(keeper, box.zone))).render()
    answer = site.answer(request)
    if isinstance(answer, Challenge):
        answer = site.answer(await boxside.prove(keeper, request, answer))
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.BAD_PROOF
    assert words in answer.detail


async def test_a_proof_is_about_its_own_request_and_in_time(site: Site) -> None:
    """Not about another request, not after its time; and the hub's memory of it needs no file."""
    first, second = await Open.of(site), await Open.of(site)
    mixed = replace(first.proof, request=second.request)
    assert site.answer(mixed.render()) == Refusal(
        Reason.CHALLENGE_EXPIRED, "this hub never asked that, or not about this request"
    )
    late = Site(site.folder, now_ms=NOW_MS + 601_000)
    assert late.answer(first.proof.render()) == Refusal(Reason.CHALLENGE_EXPIRED, "too late")
    assert not isinstance(Site(site.folder, now_ms=NOW_MS + 590_000).answer(first.proof.render()), Refusal)


async def test_a_challenge_is_opened_by_its_own_tpm_alone(site: Site) -> None:
    """With the same attestation key, and with the same endorsement key."""
    case = await Open.of(site)
    for other in (SimulatedBox(key=case.box.key, ek=EK_KEYS[1]), SimulatedBox(ek=case.box.ek)):
        with pytest.raises(BsfgError) as refused:
            await other.activate(case.challenge.credential, case.challenge.seed)
        assert refused.value.reason is Reason.TPM_REFUSED
    assert await case.box.activate(case.challenge.credential, case.challenge.seed) == case.proof.secret


async def test_a_hub_without_operators_enrols_nobody(tmp_path: Path) -> None:
    """Nothing configured is nothing trusted."""
    site = Site(tmp_path).init(release_operators=[])
    box = SimulatedBox()
    _, proof = await site.dialogue(box)
    answer = site.answer(proof)
    assert isinstance(answer, Refusal)
    assert "operators" in answer.detail


def test_the_bound_pcrs_are_quoted() -> None:
    """Else what is asked of them could not be checked."""
    assert set(BOUND_PCRS) <= set(SimulatedBox().pcrs)
    assert HUB != OTHER
