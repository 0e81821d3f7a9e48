# SPDX-License-Identifier: Apache-2.0
"""Policies against vectors that are computed here from the specification's text alone, byte by byte."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import RefusedError
from appliance.keys.tpm.policy import (
    BOUND_PCRS,
    START,
    BoundaryPolicy,
    DeviceRef,
    Operators,
    counter_public,
    nv_write_cp_hash,
    policy_authorize,
    policy_authorize_nv,
    policy_nv_equal,
    policy_or,
    policy_pcr,
    policy_signed,
    signed_authorization,
)
from appliance.keys.tpm.public import (
    BOUNDARY,
    Digest,
    Name,
    NvPublic,
    attributes_of,
    ecdsa_public_of,
    name_of,
    p256_key,
)
from tests.tpm import image_key, people

NAME = Name(bytes.fromhex("000b" + "11" * 32))
DEVICE = DeviceRef(b"\x22" * 32)


def digest(*parts: str) -> bytes:
    """SHA-256 over hex texts."""
    return hashlib.sha256(bytes.fromhex("".join(parts))).digest()


def test_formulas_are_those_of_the_specification() -> None:
    """Each command's code and arguments, in its order."""
    zero, name = "00" * 32, NAME.hex()
    assert policy_authorize(NAME, b"ref") == digest(digest(zero, "0000016a", name).hex(), b"ref".hex())
    assert policy_pcr(START, {7: b"\x07" * 32, 12: b"\x0c" * 32}) == digest(
        zero, "0000017f", "00000001000b03801000", digest("07" * 32 + "0c" * 32).hex()
    )
    assert policy_nv_equal(START, NAME, 5) == digest(zero, "00000149", digest("000000000000000500000000").hex(), name)
    assert policy_signed(START, NAME, DEVICE) == digest(digest(zero, "00000160", name).hex(), DEVICE.hex())
    assert policy_authorize_nv(NAME) == digest(zero, "00000192", name)
    branches = (Digest(b"\x01" * 32), Digest(b"\x02" * 32))
    assert policy_or(branches) == digest(zero, "00000171", "01" * 32, "02" * 32)
    assert nv_write_cp_hash(NAME, b"\xaa" * 34) == digest("00000137", name, name, "0022", "aa" * 34, "0000")


def test_names_follow_the_written_attribute() -> None:
    """The Name of an index changes with its first write, and only by that attribute."""
    counter = counter_public()
    fresh = "01800200" + "000b" + "02040014" + "0000" + "0008"
    written = "01800200" + "000b" + "22040014" + "0000" + "0008"
    assert counter.name == b"\0\x0b" + digest(fresh)
    assert counter.written().name == b"\0\x0b" + digest(written)
    assert counter.written().defined() == counter
    assert NvPublic.unmarshal(counter.marshal()) == counter
    for damaged in (counter.marshal()[:-1], counter.marshal() + b"\0", counter.marshal().replace(b"\0\x0b", b"\0\x0c")):
        with pytest.raises(RefusedError, match="bad_key"):
            NvPublic.unmarshal(damaged)


def test_a_public_area_is_read_back() -> None:
    """With attributes and policy; one of another form is refused."""
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    area = ecdsa_public_of(key, BOUNDARY, b"\x33" * 32)
    assert p256_key(area) == key
    assert attributes_of(area) == (BOUNDARY, b"\x33" * 32)
    assert name_of(area) == b"\0\x0b" + hashlib.sha256(area).digest()
    for damaged in (area[:-1], area[:40], b"", area.replace(b"\0\x18\0\x0b", b"\0\x18\0\x0c")):
        with pytest.raises(RefusedError, match="bad_key"):
            p256_key(damaged)
    with pytest.raises(RefusedError, match="bad_key"):
        ecdsa_public_of(ec.generate_private_key(ec.SECP384R1()).public_key())


def test_no_message_without_a_cp_hash() -> None:
    """A signature over an empty cpHash would be a blank one."""
    assert signed_authorization(Digest(b"\x44" * 32), DEVICE) == bytes(4) + b"\x44" * 32 + DEVICE
    with pytest.raises(RefusedError, match="bad_policy"):
        signed_authorization(Digest(b""), DEVICE)


def test_operators_are_two_or_three_people() -> None:
    """Nobody counts twice."""
    _, two = people(2)
    _, three = people(3)
    assert two.pairs == ((0, 1),)
    assert three.pairs == ((0, 1), (0, 2), (1, 2))
    assert two.policy(DEVICE) == two.branches(DEVICE)[0]
    assert three.policy(DEVICE) == policy_or(three.branches(DEVICE))
    for keys in (two.keys[:1], two.keys[:1] * 2, (*two.keys, two.keys[0]), (*two.keys, *three.keys)):
        with pytest.raises(RefusedError, match="bad_policy"):
            Operators(keys)


def test_every_part_changes_the_policy() -> None:
    """Counter, each PCR, device, operators, their order, image key."""
    _, operators = people(2)
    _, others = people(2)
    image = image_key().public_key()
    pcrs = {pcr: bytes([pcr]) * 32 for pcr in BOUND_PCRS}
    policy = BoundaryPolicy(DEVICE, operators, image)
    digests = [policy.auth_policy(policy.x(1, pcrs)), policy.auth_policy(policy.x(2, pcrs))]
    digests += [policy.auth_policy(policy.x(1, {**pcrs, pcr: bytes(32)})) for pcr in BOUND_PCRS]
    for other in (
        BoundaryPolicy(DeviceRef(b"\x23" * 32), operators, image),
        BoundaryPolicy(DEVICE, others, image),
        BoundaryPolicy(DEVICE, Operators(operators.keys[::-1]), image),
        BoundaryPolicy(DEVICE, operators, image_key().public_key()),
    ):
        digests.append(other.auth_policy(other.x(1, pcrs)))
    assert len(set(digests)) == len(digests)
    for wrong in ({}, {**pcrs, 14: bytes(32)}, {**pcrs, 7: b""}):
        with pytest.raises(RefusedError, match="bad_policy"):
            policy.x(1, wrong)
