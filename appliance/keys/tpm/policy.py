# SPDX-License-Identifier: Apache-2.0
"""The policy of the boundary key, computed as the TPM computes it. Pure: an operator and a hub use it without a TPM.

The key's authPolicy is ``PolicyOR(X(n0), Y)``:

* ``X(n)`` = PolicyAuthorize(image key: PCR 11), PolicyPCR(7, 12, 13, 15 as they are), PolicyNV(counter == n);
* ``n0`` is the counter at the key's birth, so the key works at once and until the first increment;
* ``Y`` = PolicyAuthorizeNV(release index): the key works on whatever X(n) two operators wrote there.

The release index can be written only by ``PolicySigned(A), PolicySigned(B)``, both over the cpHash of one exact write.
Two nested PolicyAuthorize would not need two people: each resets the digest, so the last signer alone decides.

All digests are SHA-256 and all integers big endian. The sections named below are of the TPM 2.0 Library Specification,
part 3 (commands); "part 1, 19.7" describes how a policy digest grows.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NewType

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.public import (
    SHA256,
    Digest,
    Name,
    NvAttribute,
    NvPublic,
    ecdsa_public_of,
    name_of,
    rsa_public_of,
    sha256,
    sized,
)

DeviceRef = NewType("DeviceRef", bytes)
"""What tells one box from all others in operators' signatures: 32 bytes, chosen at birth, never changed."""

START: Final = Digest(bytes(32))
"""The digest of a policy session that has seen no command (part 1, 19.7.2)."""
IMAGE_PCR: Final = 11
"""The PCR of image and boot phases; the image key signs its values."""
BOUND_PCRS: Final = (7, 12, 13, 15)
"""The PCRs the key is bound to as they are: Secure Boot state, kernel command line, extensions, ``/var``."""
HELD_PCR: Final = 14
"""The PCR that the latch extends: no local secret is bound to it, and any extension ends held policy sessions."""
RESUMED_WORD: Final = sha256(b"bsfg quarantine")
"""What a latch that is finished at the next start extends :data:`HELD_PCR` by, when nothing says what it was for."""
COUNTER_INDEX: Final = 0x01800200
RELEASE_INDEX: Final = 0x01800201
"""NV indices of the quarantine counter and of the release, in the owner's range (TCG registry of handles)."""
RELEASE_INDICES: Final = (RELEASE_INDEX, 0x01800202)
"""Where a key's release index may be: a new key beside an old one takes the other, so neither breaks the other's."""
RELEASE_SIZE: Final = 34
"""An algorithm identifier and a SHA-256 digest."""

_CC_NV_WRITE: Final = 0x137
_CC_POLICY_NV: Final = 0x149
_CC_POLICY_SIGNED: Final = 0x160
_CC_POLICY_AUTHORIZE: Final = 0x16A
_CC_POLICY_OR: Final = 0x171
_CC_POLICY_PCR: Final = 0x17F
_CC_POLICY_AUTHORIZE_NV: Final = 0x192


def _extend(digest: bytes, command: int, *arguments: bytes) -> Digest:
    return sha256(digest + struct.pack(">I", command) + b"".join(arguments))


def policy_authorize(signer: Name, ref: bytes = b"") -> Digest:
    """PolicyAuthorize (23.16, "PolicyUpdate"): whatever ``signer`` approved; the digest before it is forgotten."""
    return sha256(_extend(START, _CC_POLICY_AUTHORIZE, signer) + ref)


def policy_pcr(digest: bytes, values: Mapping[int, bytes]) -> Digest:
    """PolicyPCR (23.7): the SHA-256 bank has these values."""
    bitmap = sum(1 << pcr for pcr in values).to_bytes(3, "little")
    selection = struct.pack(">IHB", 1, SHA256, len(bitmap)) + bitmap
    return _extend(digest, _CC_POLICY_PCR, selection, sha256(b"".join(values[pcr] for pcr in sorted(values))))


def policy_nv_equal(digest: bytes, index: Name, value: int) -> Digest:
    """PolicyNV (23.9) with the operation "equal" at offset 0 on an 8-byte counter."""
    arguments = sha256(struct.pack(">QHH", value, 0, 0))
    return _extend(digest, _CC_POLICY_NV, arguments, index)


def policy_signed(digest: bytes, signer: Name, ref: bytes = b"") -> Digest:
    """PolicySigned (23.3, "PolicyUpdate"): ``signer`` signed this very use, under ``ref``."""
    return sha256(_extend(digest, _CC_POLICY_SIGNED, signer) + ref)


def policy_authorize_nv(index: Name) -> Digest:
    """PolicyAuthorizeNV (23.22): whatever policy the index holds; ``index`` is its Name once written."""
    return _extend(START, _CC_POLICY_AUTHORIZE_NV, index)


def policy_or(branches: Sequence[Digest]) -> Digest:
    """PolicyOR (23.6): any of 2 to 8 branches. :raises RefusedError: ``bad_policy``: another number."""
    if not 2 <= len(branches) <= 8:
        raise RefusedError(Reason.BAD_POLICY, f"{len(branches)} branches; PolicyOR takes 2 to 8")
    return _extend(START, _CC_POLICY_OR, *branches)


def nv_write_cp_hash(index: Name, data: bytes) -> Digest:
    """CpHash of NV_Write at offset 0, authorised by the index itself (part 1, 16.7; part 3, 31.7)."""
    return sha256(struct.pack(">I", _CC_NV_WRITE) + index + index + sized(data) + struct.pack(">H", 0))


def signed_authorization(cp_hash: Digest, device: DeviceRef) -> bytes:
    """The message of a PolicySigned without nonce and expiration (23.3.1): what an operator signs.

    :raises RefusedError: ``bad_policy``: the cpHash is empty. Such a signature would be good for any write, for ever.
    """
    if len(cp_hash) != len(START) or len(device) != len(START):
        raise RefusedError(Reason.BAD_POLICY, "cpHash and device reference must be 32 bytes each")
    return struct.pack(">i", 0) + cp_hash + device


def latch_word(evidence: Digest) -> Digest:
    """What a latch extends :data:`HELD_PCR` by: it tells for which evidence the key was locked, until the next boot."""
    return sha256(b"bsfg quarantine\0" + evidence)


def counter_public() -> NvPublic:
    """The quarantine counter as it is defined: anybody may increment it, nobody can set it back."""
    attributes = NvAttribute.COUNTER | NvAttribute.AUTHREAD | NvAttribute.AUTHWRITE | NvAttribute.NO_DA
    return NvPublic(COUNTER_INDEX, attributes, 8)


@dataclass(frozen=True, slots=True)
class Operators:
    """The people who can release a box: two, or three of whom any two suffice. Their order is part of the policy."""

    keys: tuple[ec.EllipticCurvePublicKey, ...]

    def __post_init__(self) -> None:
        """:raises RefusedError: ``bad_policy``: not 2 or 3 distinct keys; ``bad_key``: not P-256."""
        if not 2 <= len(self.keys) <= 3 or len(set(self.names)) != len(self.keys):
            raise RefusedError(Reason.BAD_POLICY, "there must be 2 or 3 operators, each with a key of their own")

    @property
    def names(self) -> tuple[Name, ...]:
        """The Names of the operators' keys, in order."""
        return tuple(name_of(ecdsa_public_of(key)) for key in self.keys)

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of operators that suffice, each in ascending order."""
        return tuple(itertools.combinations(range(len(self.keys)), 2))

    def branches(self, device: DeviceRef) -> tuple[Digest, ...]:
        """For each of :attr:`pairs`, the policy that both of them signed a write for ``device``."""
        names = self.names
        return tuple(
            policy_signed(policy_signed(START, names[first], device), names[second], device)
            for first, second in self.pairs
        )

    def policy(self, device: DeviceRef) -> Digest:
        """The authPolicy of the release index."""
        branches = self.branches(device)
        return branches[0] if len(branches) == 1 else policy_or(branches)


@dataclass(frozen=True, slots=True)
class PairSignatures:
    """Two operators' signatures over one write of the release index, in the operators' order.

    :param pair: the operators' positions. :param fresh: over the write of an index never written (ECDSA, DER).
    :param again: over the write of an index written before.
    """

    pair: tuple[int, int]
    fresh: tuple[bytes, bytes]
    again: tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class BoundaryPolicy:
    """Everything that decides about the boundary key of one box. The same in TPM, hub and operator's tool."""

    device: DeviceRef
    operators: Operators
    image_key: rsa.RSAPublicKey
    release_index: int = RELEASE_INDEX

    def __post_init__(self) -> None:
        """:raises RefusedError: ``bad_policy``: the release index has another place."""
        if self.release_index not in RELEASE_INDICES:
            raise RefusedError(Reason.BAD_POLICY, f"no release index can be at {self.release_index:#010x}")

    @property
    def image_name(self) -> Name:
        """The Name of the image key."""
        return name_of(rsa_public_of(self.image_key))

    @property
    def release_public(self) -> NvPublic:
        """The release index as it is defined; only its policy can write it, anybody may read it."""
        attributes = NvAttribute.AUTHREAD | NvAttribute.POLICYWRITE | NvAttribute.NO_DA
        return NvPublic(self.release_index, attributes, RELEASE_SIZE, self.operators.policy(self.device))

    def x(self, counter: int, pcrs: Mapping[int, bytes]) -> Digest:
        """``X(n)``: a signed image, these values of :data:`BOUND_PCRS`, and the counter at ``counter``.

        :raises RefusedError: ``bad_policy``: other PCRs.
        """
        if sorted(pcrs) != sorted(BOUND_PCRS) or any(len(value) != len(START) for value in pcrs.values()):
            raise RefusedError(Reason.BAD_POLICY, f"the key is bound to PCRs {BOUND_PCRS}, 32 bytes each")
        digest = policy_pcr(policy_authorize(self.image_name), pcrs)
        return policy_nv_equal(digest, counter_public().written().name, counter)

    @property
    def y(self) -> Digest:
        """``Y``: whatever the release index holds."""
        return policy_authorize_nv(self.release_public.written().name)

    def auth_policy(self, birth: Digest) -> Digest:
        """The key's authPolicy. :param birth: ``X(n0)``."""
        return policy_or((birth, self.y))

    def release_data(self, x: Digest) -> bytes:
        """What the release index holds to allow ``x``: a TPMT_HA (part 3, 23.22.1)."""
        return struct.pack(">H", SHA256) + x

    def release_messages(self, x: Digest) -> tuple[bytes, bytes]:
        """What each operator signs to release: for an index never written, and for one written before.

        Two, because the first write changes the index's Name; a box whose index was removed needs the first again.
        """
        data = self.release_data(x)
        publics = (self.release_public.defined(), self.release_public.written())
        fresh, again = (signed_authorization(nv_write_cp_hash(public.name, data), self.device) for public in publics)
        return fresh, again
