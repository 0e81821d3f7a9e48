# SPDX-License-Identifier: Apache-2.0
"""The one secret of the local class: 32 random bytes, from which the key of operator, accounts and local CA follow.

It never changes, so a box can keep it sealed (systemd credential, ``docs/credentials.md``); whatever does change beside
it holds no secret. A user's own key is not among what follows from it: that is made at random, for its credentials file
alone.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import KeyKind, NatsKey
from appliance.keys.files import PRIVATE, write_atomically

ROOT_BYTES: Final = 32
_INFO: Final = b"bsfg local keys 1\0"
_P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class LocalRoot:
    """The secret; ``repr`` does not show it."""

    secret: bytes = field(repr=False)

    @classmethod
    def load(cls, path: Path) -> LocalRoot:
        """Read it: 64 hexadecimal digits. :raises UnavailableError: ``bad_local_keys``; :raises FileNotFoundError."""
        try:
            secret = bytes.fromhex(path.read_text(encoding="ascii").strip())
        except FileNotFoundError:
            raise
        except (OSError, ValueError):
            raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{path} cannot be read as a local root") from None
        if len(secret) != ROOT_BYTES:
            raise UnavailableError(Reason.BAD_LOCAL_KEYS, f"{path}: a local root has {ROOT_BYTES} bytes")
        return cls(secret)

    @classmethod
    def ensure(cls, path: Path) -> LocalRoot:
        """Read it, or make it when it is not there. The caller holds the folder's lock."""
        try:
            return cls.load(path)
        except FileNotFoundError:
            root = cls(secrets.token_bytes(ROOT_BYTES))
            write_atomically(path, root.secret.hex().encode() + b"\n", PRIVATE)
            return root

    def nats_key(self, kind: KeyKind, *names: str) -> NatsKey:
        """The key of operator or account. The same names give the same key, always."""
        return NatsKey.from_bytes(kind, self._derive(32, kind.name.lower(), *names))

    def authority_key(self) -> ec.EllipticCurvePrivateKey:
        """The key of the local CA, EC P-256 (NIST SP 800-56A, 5.6.1.2.1: 64 bits more than the order has)."""
        number = int.from_bytes(self._derive(40, "authority"), "big")
        return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())

    def _derive(self, length: int, *names: str) -> bytes:
        info = _INFO + b"\0".join(name.encode() for name in names)
        return HKDF(algorithm=hashes.SHA256(), length=length, salt=None, info=info).derive(self.secret)
