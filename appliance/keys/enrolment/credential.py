# SPDX-License-Identifier: Apache-2.0
"""TPM2_MakeCredential without a TPM: a secret that only one TPM can open, and only if it holds a certain other key.

The seed is encrypted for the endorsement key; keys derived from it encrypt the secret and bind it to the Name of the
attestation key. (TPM 2.0 Library Specification part 1: 24 "Credential Protection", 11.4.10 "KDFa" and "KDFe", annex
B.10.4 for RSA and C.6.4 for ECC.)
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.kdf.concatkdf import ConcatKDFHash
from cryptography.hazmat.primitives.kdf.kbkdf import KBKDFHMAC, CounterLocation, Mode

from appliance.keys.tpm.public import Name, sized

SECRET_BYTES: Final = 32
"""A credential holds at most a digest of the endorsement key's name algorithm, which is SHA-256."""
_LABEL: Final = b"IDENTITY"


@dataclass(frozen=True, slots=True)
class Credential:
    """What a TPM opens with ActivateCredential. :param blob: TPM2B_ID_OBJECT. :param seed: TPM2B_ENCRYPTED_SECRET."""

    blob: bytes
    seed: bytes


def make_credential(
    endorsement: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, attestation_key: Name, secret: bytes
) -> Credential:
    """Hide a secret of at most 32 bytes for one endorsement key and one attestation key.

    :param endorsement: RSA, or EC P-256, of a standard template (AES-128-CFB, SHA-256).
    :raises ValueError: the secret is too long.
    """
    if len(secret) > SECRET_BYTES:
        raise ValueError(f"a credential holds {SECRET_BYTES} bytes")
    seed, encrypted = _seed_for(endorsement)
    cipher = Cipher(AES(_kdfa(seed, b"STORAGE", attestation_key, 16)), CFB(bytes(16))).encryptor()
    identity = cipher.update(sized(secret)) + cipher.finalize()
    tag = hmac.HMAC(_kdfa(seed, b"INTEGRITY", b"", 32), hashes.SHA256())
    tag.update(identity + attestation_key)
    return Credential(sized(sized(tag.finalize()) + identity), sized(encrypted))


def _seed_for(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> tuple[bytes, bytes]:
    """A new seed, and what the endorsement key makes it from again."""
    if isinstance(key, rsa.RSAPublicKey):
        seed = secrets.token_bytes(32)
        oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), _LABEL + b"\0")
        return seed, key.encrypt(seed, oaep)
    ours = ec.generate_private_key(key.curve)
    point, theirs = ours.public_key().public_numbers(), key.public_numbers()
    size = (key.key_size + 7) // 8
    x = point.x.to_bytes(size)
    information = _LABEL + b"\0" + x + theirs.x.to_bytes(size)
    seed = ConcatKDFHash(hashes.SHA256(), 32, information).derive(ours.exchange(ec.ECDH(), key))
    return seed, sized(x) + sized(point.y.to_bytes(size))


def _kdfa(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """``KDFa``: the counter mode of NIST SP 800-108 with HMAC-SHA-256; the length is counted in bits."""
    return KBKDFHMAC(
        hashes.SHA256(), Mode.CounterMode, size, 4, 4, CounterLocation.BeforeFixed, label, context, None
    ).derive(key)
