# SPDX-License-Identifier: Apache-2.0
"""An operator's release key: EC P-256, in a file encrypted with a passphrase, for releases and nothing else.

Signatures are in one form only: DER, with the smaller of the two equivalent values of ``s``. ECDSA alone would let
anybody turn a signature into a second one that verifies as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.files import PRIVATE, PUBLIC, write_atomically
from appliance.keys.tpm.identity import spki_pem

MINIMUM_PASSPHRASE: Final = 12
"""Characters a passphrase must have at least: the file may be stolen and guessed at offline."""
ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""The order of the P-256 group (SEC 2, 2.4.2)."""


def new_operator_key(path: Path, passphrase: str) -> ec.EllipticCurvePublicKey:
    """Make a key: the private half encrypted at ``path``, the public half beside it with ``.pub`` appended.

    :raises RefusedError: ``bad_input``: the file exists, or the passphrase is too short.
    """
    if len(passphrase) < MINIMUM_PASSPHRASE:
        raise RefusedError(Reason.BAD_INPUT, f"the passphrase needs at least {MINIMUM_PASSPHRASE} characters")
    if path.exists():
        raise RefusedError(Reason.BAD_INPUT, f"{path} exists; a key is never overwritten")
    key = ec.generate_private_key(ec.SECP256R1())
    encryption = serialization.BestAvailableEncryption(passphrase.encode())
    text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    write_atomically(path.with_name(path.name + ".pub"), spki_pem(key.public_key()).encode(), PUBLIC)
    write_atomically(path, text, PRIVATE)
    return key.public_key()


def load_operator_key(path: Path, passphrase: str) -> ec.EllipticCurvePrivateKey:
    """Open a key. :raises RefusedError: ``bad_key``: not such a file, not encrypted, or another passphrase."""
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase.encode())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefusedError(Reason.BAD_KEY, f"{path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(Reason.BAD_KEY, f"{path}: not EC P-256")
    return key


def sign(key: ec.EllipticCurvePrivateKey, message: bytes) -> bytes:
    """An ECDSA signature with SHA-256, in its one form."""
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    return encode_dss_signature(r, min(s, ORDER - s))


def verifies(key: ec.EllipticCurvePublicKey, message: bytes, signature: bytes) -> bool:
    """Whether a signature is one, and in its one form."""
    try:
        r, s = decode_dss_signature(signature)
        if 2 * s > ORDER or encode_dss_signature(r, s) != signature:
            return False
        key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True
