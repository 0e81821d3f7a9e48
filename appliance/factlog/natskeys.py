# SPDX-License-Identifier: Apache-2.0
"""NKeys, the Ed25519 keys of NATS in their base32 form, and the credentials file that holds one with its user JWT.

A client signs the broker's nonce with the key; nothing secret crosses the connection. The file is the one every stock
client reads. Source: https://docs.nats.io/using-nats/developer/connecting/creds, https://github.com/nats-io/nkeys.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

SEED_BYTES: Final = 32
MAX_CREDENTIALS: Final = 64 * 1024
"""Bytes of the largest credentials file that is read."""

_SEED: Final = 18 << 3
_CREDENTIALS = re.compile(
    r"-----BEGIN NATS USER JWT-----\n([A-Za-z0-9_.-]+)\n------END NATS USER JWT------\n"
    r"(?:(?!-----BEGIN).*\n)*"
    r"-----BEGIN USER NKEY SEED-----\n(SU[A-Z2-7]+)\n------END USER NKEY SEED------\n"
    r"(?:(?!-----BEGIN).*\n)*"
)


class KeyKind(IntEnum):
    """Whose key it is: the byte before the key, which makes its text begin with O, A or U."""

    OPERATOR = 14 << 3
    ACCOUNT = 0
    USER = 20 << 3


@dataclass(frozen=True, slots=True)
class NatsKey:
    """A key pair; ``repr`` shows the public half alone."""

    kind: KeyKind
    public: str
    private: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def from_bytes(cls, kind: KeyKind, seed: bytes) -> NatsKey:
        """The key pair of 32 secret bytes. :raises ValueError: not 32."""
        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(kind, public_text(kind, private.public_key().public_bytes_raw()), private)

    @classmethod
    def generate(cls, kind: KeyKind) -> NatsKey:
        """A new random one."""
        return cls.from_bytes(kind, Ed25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def from_seed(cls, text: str) -> NatsKey:
        """The key pair of a seed's text (``SU...``). :raises RefusedError: ``bad_input``, without the text."""
        raw = _bytes(text)
        if len(raw) != 2 + SEED_BYTES or raw[0] & 0xF8 != _SEED:
            raise RefusedError(Reason.BAD_INPUT, "not the seed of an NKey")
        try:
            kind = KeyKind((raw[0] & 7) << 5 | raw[1] >> 3)
        except ValueError:
            raise RefusedError(Reason.BAD_INPUT, "an NKey of a kind that is not used here") from None
        key = cls.from_bytes(kind, raw[2:])
        if key.seed != text:
            raise RefusedError(Reason.BAD_INPUT, "not the seed of an NKey")
        return key

    @property
    def seed(self) -> str:
        """The secret half as text."""
        head = bytes([_SEED | self.kind >> 5, (self.kind & 31) << 3])
        return _text(head + self.private.private_bytes_raw())

    def sign(self, data: bytes) -> bytes:
        """The signature over ``data``, 64 bytes."""
        return self.private.sign(data)


def verifies(public: str, kind: KeyKind, data: bytes, signature: bytes) -> bool:
    """Whether a signature over ``data`` is that of this public key, which must be of that kind."""
    try:
        Ed25519PublicKey.from_public_bytes(public_bytes(public, kind)).verify(signature, data)
    except (InvalidSignature, RefusedError, ValueError):
        return False
    return True


def public_bytes(public: str, kind: KeyKind) -> bytes:
    """The 32 bytes of a public key's text. :raises RefusedError: ``bad_input``: not of that kind."""
    raw = _bytes(public)
    if len(raw) != 1 + SEED_BYTES or raw[0] != kind or _text(raw) != public:
        raise RefusedError(Reason.BAD_INPUT, f"not the public key of an NKey of kind {kind.name.lower()}")
    return raw[1:]


def public_text(kind: KeyKind, raw: bytes) -> str:
    """The text of a public key of 32 bytes."""
    return _text(bytes([kind]) + raw)


@dataclass(frozen=True, slots=True)
class UserCredentials:
    """What lets a user in where users have JWTs: the JWT, and the key that it names."""

    jwt: str = field(repr=False)
    key: NatsKey

    @classmethod
    def parse(cls, text: str) -> UserCredentials:
        """Read a credentials file. :raises RefusedError: ``bad_input``, without its content."""
        found = _CREDENTIALS.fullmatch(text.replace("\r\n", "\n"))
        if found is None:
            raise RefusedError(Reason.BAD_INPUT, "not a NATS credentials file")
        return cls(found[1], NatsKey.from_seed(found[2]))

    @classmethod
    def load(cls, path: Path) -> UserCredentials:
        """Read a credentials file from disk. :raises RefusedError: ``bad_input`` naming it."""
        try:
            with path.open("rb") as file:
                data = file.read(MAX_CREDENTIALS + 1)
            if len(data) > MAX_CREDENTIALS:
                raise RefusedError(Reason.BAD_INPUT, "too long for a NATS credentials file")
            return cls.parse(data.decode("ascii"))
        except OSError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: not a NATS credentials file") from None
        except RefusedError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.detail}") from None

    def text(self) -> str:
        """The file, as every NATS client reads it."""
        return (
            f"-----BEGIN NATS USER JWT-----\n{self.jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n"
            "The seed below proves who its holder is. Keep this file secret.\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self.key.seed}\n------END USER NKEY SEED------\n\n"
            "*************************************************************\n"
        )

    def answer(self, nonce: str) -> str:
        """The proof for a broker's nonce: the signature, in base64url without padding."""
        return base64.urlsafe_b64encode(self.key.sign(nonce.encode())).decode().rstrip("=")


def _text(raw: bytes) -> str:
    checksum = binascii.crc_hqx(raw, 0).to_bytes(2, "little")  # CRC-16/XMODEM
    return base64.b32encode(raw + checksum).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    """:raises RefusedError: ``bad_input``: not base32, or the checksum is wrong."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        raise RefusedError(Reason.BAD_INPUT, "not an NKey") from None
    if len(raw) < 3 or binascii.crc_hqx(raw[:-2], 0).to_bytes(2, "little") != raw[-2:]:
        raise RefusedError(Reason.BAD_INPUT, "not an NKey")
    return raw[:-2]
