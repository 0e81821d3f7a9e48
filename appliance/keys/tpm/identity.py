# SPDX-License-Identifier: Apache-2.0
"""What a box knows about its boundary key: one file, public but for a private part that only its TPM can open.

The same file, without trust in it, tells an operator's tool which policy the key has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import rfc8785
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.policy import BOUND_PCRS, BoundaryPolicy, DeviceRef, Operators
from appliance.keys.tpm.public import BOUNDARY, Digest, Name, attributes_of, ecdsa_public, p256_key

FORMAT: Final = "bsfg-boundary-key-1"
_FIELDS: Final = {
    "birth_counter",
    "birth_pcrs",
    "device",
    "format",
    "image_key",
    "operators",
    "private",
    "public",
    "release_index",
    "srk",
}


@dataclass(frozen=True, slots=True)
class BoundaryIdentity:
    """A provisioned boundary key.

    :param birth_counter: ``n0``. :param birth_pcrs: the PCRs the key was born under.
    :param public: its TPMT_PUBLIC. :param private: its private part, encrypted by the TPM for itself.
    :param srk_name: the Name of the storage root key above it.
    """

    policy: BoundaryPolicy
    birth_counter: int
    birth_pcrs: Mapping[int, bytes]
    public: bytes
    private: bytes
    srk_name: Name

    @property
    def birth(self) -> Digest:
        """``X(n0)``."""
        return self.policy.x(self.birth_counter, self.birth_pcrs)

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The boundary key's public half."""
        return p256_key(self.public)

    def check(self) -> None:
        """:raises IntegrityError: ``tpm_altered``: the key has not the attributes and policy that it must have."""
        attributes, auth_policy = attributes_of(self.public)
        if attributes != BOUNDARY or auth_policy != self.policy.auth_policy(self.birth):
            raise IntegrityError(Reason.TPM_ALTERED, "the key's attributes or policy are not those of a boundary key")

    def render(self) -> bytes:
        """As the file holds it (RFC 8785)."""
        return rfc8785.dumps(
            {
                "format": FORMAT,
                "device": self.policy.device.hex(),
                "operators": [spki_pem(key) for key in self.policy.operators.keys],
                "image_key": spki_pem(self.policy.image_key),
                "birth_counter": str(self.birth_counter),
                "birth_pcrs": {str(pcr): value.hex() for pcr, value in self.birth_pcrs.items()},
                "public": self.public.hex(),
                "private": self.private.hex(),
                "release_index": f"{self.policy.release_index:08x}",
                "srk": self.srk_name.hex(),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> BoundaryIdentity:
        """Read :meth:`render`'s bytes. :raises IntegrityError: ``tpm_altered``: they are not that."""
        try:
            values = json.loads(data)
            if not isinstance(values, dict) or set(values) != _FIELDS or values["format"] != FORMAT:
                raise ValueError("not the fields of a boundary key")
            identity = cls(
                _policy(values),
                int(values["birth_counter"]),
                _pcrs(values["birth_pcrs"]),
                bytes.fromhex(values["public"]),
                bytes.fromhex(values["private"]),
                Name(bytes.fromhex(values["srk"])),
            )
            identity.check()
        except (ValueError, TypeError, KeyError, AttributeError, RefusedError) as error:
            raise IntegrityError(Reason.TPM_ALTERED, f"key file: {error}") from error
        return identity


def boundary_template(policy: BoundaryPolicy, birth: Digest) -> bytes:
    """The public area that the TPM makes the boundary key from."""
    return ecdsa_public(bytes(32), bytes(32), BOUNDARY, policy.auth_policy(birth))


def spki_pem(key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> str:
    """A public key as PEM (SubjectPublicKeyInfo)."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_bytes(serialization.Encoding.PEM, form).decode("ascii")


def load_p256(pem: str | bytes) -> ec.EllipticCurvePublicKey:
    """An operator's public key. :raises RefusedError: ``bad_key``."""
    key = _load(pem)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(Reason.BAD_KEY, "not an EC P-256 public key")
    return key


def load_rsa(pem: str | bytes) -> rsa.RSAPublicKey:
    """An image key's public half. :raises RefusedError: ``bad_key``."""
    key = _load(pem)
    if not isinstance(key, rsa.RSAPublicKey):
        raise RefusedError(Reason.BAD_KEY, "not an RSA public key")
    return key


def _load(pem: str | bytes) -> Any:
    try:
        return serialization.load_pem_public_key(pem.encode("ascii") if isinstance(pem, str) else pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(Reason.BAD_KEY, str(error)) from error


def _policy(values: dict[str, Any]) -> BoundaryPolicy:
    device = bytes.fromhex(values["device"])
    if len(device) != 32:
        raise ValueError("the device reference has not 32 bytes")
    operators = Operators(tuple(load_p256(pem) for pem in values["operators"]))
    index = int(values["release_index"], 16)
    return BoundaryPolicy(DeviceRef(device), operators, load_rsa(values["image_key"]), index)


def _pcrs(values: dict[str, str]) -> dict[int, bytes]:
    pcrs = {int(pcr): bytes.fromhex(value) for pcr, value in values.items()}
    if sorted(pcrs) != sorted(BOUND_PCRS):
        raise ValueError(f"the PCRs are not {BOUND_PCRS}")
    return pcrs
