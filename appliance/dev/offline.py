# SPDX-License-Identifier: Apache-2.0
"""What an environment has instead of people: the operators' keys and the image builder's, **as files on this machine**.

In the field each operator keeps a key of their own, offline, and the image key is with the builder of the images. Here
one folder holds them all, and the passphrase beside them, so that a demo can play all the parts.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.files import PRIVATE, write_atomically
from appliance.keys.operators import load_operator_key, new_operator_key

OPERATORS: Final = ("operator-1", "operator-2")
"""The two whose signatures release a box; the first one also admits boxes."""


@dataclass(frozen=True, slots=True)
class Offline:
    """The folder of what would be offline."""

    folder: Path

    @property
    def passphrase_file(self) -> Path:
        """The passphrase of the operators' keys."""
        return self.folder / "passphrase"

    @property
    def image_key_file(self) -> Path:
        """The development image key."""
        return self.folder / "image-key.pem"

    @property
    def vendor(self) -> Path:
        """The *simulated* TPM vendor."""
        return self.folder / "tpm-vendor"

    def operator_file(self, name: str) -> Path:
        """An operator's key; the public half lies beside it with ``.pub`` appended."""
        return self.folder / f"{name}.pem"

    @staticmethod
    def public(key: Path) -> Path:
        """The public half of an operator's key."""
        return key.with_name(key.name + ".pub")

    def ensure(self) -> None:
        """Make whatever is missing; what is there stays. May be killed anywhere and called again. Blocking."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.passphrase_file.exists():
            write_atomically(self.passphrase_file, secrets.token_urlsafe(24).encode(), PRIVATE)
        for name in OPERATORS:  # the private half is written last
            if not self.operator_file(name).exists():
                new_operator_key(self.operator_file(name), self.passphrase())
        if not self.image_key_file.exists():
            text = rsa.generate_private_key(65537, 2048).private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            write_atomically(self.image_key_file, text, PRIVATE)

    def passphrase(self) -> str:
        """The passphrase of the operators' keys. :raises UnavailableError: ``bad_environment``."""
        try:
            return self.passphrase_file.read_text("ascii")
        except OSError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{self.passphrase_file}: {error.strerror}") from error

    def operator(self, name: str) -> ec.EllipticCurvePrivateKey:
        """An operator's key, opened. :raises RefusedError: ``bad_key``."""
        return load_operator_key(self.operator_file(name), self.passphrase())

    def image_key(self) -> rsa.RSAPrivateKey:
        """The development image key. :raises UnavailableError: ``bad_environment``."""
        try:
            key = serialization.load_pem_private_key(self.image_key_file.read_bytes(), None)
        except (OSError, ValueError) as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{self.image_key_file}: {error}") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{self.image_key_file}: not an RSA key")
        return key
