# SPDX-License-Identifier: Apache-2.0
"""The boundary key as ``cryptography`` takes a private key: it signs certificates and requests, inside the TPM."""

from __future__ import annotations

from typing import Any, NoReturn

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.public import sha256


class BoundarySigner(ec.EllipticCurvePrivateKey):
    """The boundary key of this box. Each signature runs the key's policy in the TPM; for the TPM's thread alone."""

    def __init__(self, key: BoundaryKey) -> None:
        self._key = key

    def sign(self, data: Any, signature_algorithm: ec.EllipticCurveSignatureAlgorithm) -> bytes:
        """An ECDSA signature with SHA-256 (DER). :raises DeniedError: as :meth:`BoundaryKey.sign`."""
        algorithm = signature_algorithm.algorithm
        if not isinstance(algorithm, hashes.SHA256):
            raise ValueError(f"the boundary key signs with SHA-256, not {getattr(algorithm, 'name', algorithm)}")
        return self._key.sign(sha256(bytes(data)))

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half."""
        return self._key.identity.public_key

    @property
    def curve(self) -> ec.EllipticCurve:
        """P-256."""
        return ec.SECP256R1()

    @property
    def key_size(self) -> int:
        """In bits."""
        return 256

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> NoReturn:  # noqa: ARG002
        """:raises ValueError: the key only signs."""
        raise ValueError("the boundary key only signs")

    def private_numbers(self) -> NoReturn:
        """:raises ValueError: the key never leaves the TPM."""
        raise ValueError("the boundary key never leaves the TPM")

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002, ARG002
        """:raises ValueError: the key never leaves the TPM."""
        raise ValueError("the boundary key never leaves the TPM")

    def __copy__(self) -> BoundarySigner:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> BoundarySigner:
        return self
