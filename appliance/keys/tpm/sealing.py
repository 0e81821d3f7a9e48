# SPDX-License-Identifier: Apache-2.0
"""Sealing: small secrets that only this TPM gives out, under the policy of the boundary key. Blocking.

A sealed secret is a data object under the storage root key with the boundary key's authPolicy: what latches the key
latches the secrets, and a release brings back both. It is for secrets of the boundary alone; local secrets must not
be lost to local work, so they are kept elsewhere. On the bus a secret is encrypted both ways.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import hex_bytes, parse_document, render_document
from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.public import NULL, SHA256, ObjectAttribute, sized

FORMAT: Final = "bsfg-sealed-1"
SECRET_BYTES: Final = 128
"""The longest secret that every TPM can seal (MAX_SYM_DATA, TPM 2.0 part 2, 11.1.13)."""
KEYED_HASH: Final = 0x0008
SEALED: Final = ObjectAttribute.FIXED_TPM | ObjectAttribute.FIXED_PARENT | ObjectAttribute.NO_DA
"""Attributes of a sealed secret. USER_WITH_AUTH is clear: only its policy opens it."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A sealed secret: its TPMT_PUBLIC, and its private part, which the TPM encrypted for itself."""

    public: bytes
    private: bytes

    def render(self) -> bytes:
        """As a file holds it."""
        return render_document({"format": FORMAT, "public": self.public.hex(), "private": self.private.hex()})

    @classmethod
    def parse(cls, data: bytes) -> Sealed:
        """Read :meth:`render`'s bytes. :raises IntegrityError: ``tpm_altered``: they are not that."""
        try:
            values = parse_document(data, FORMAT, {"public": str, "private": str}, 4096)
            return cls(hex_bytes(values["public"]), hex_bytes(values["private"]))
        except (ValueError, RefusedError) as error:
            raise IntegrityError(Reason.TPM_ALTERED, f"sealed secret: {error}") from error


def sealed_template(auth_policy: bytes) -> bytes:
    """TPMT_PUBLIC of a data object with this policy (part 2, 12.2.4 and 12.2.3.3)."""
    return struct.pack(">HHI", KEYED_HASH, SHA256, SEALED) + sized(auth_policy) + struct.pack(">H", NULL) + sized(b"")


def seal(device: Device, key: BoundaryKey, secret: bytes) -> Sealed:
    """Seal a secret; works while latched too. :raises RefusedError: ``bad_input``: empty, or too long."""
    if not 0 < len(secret) <= SECRET_BYTES:
        raise RefusedError(Reason.BAD_INPUT, f"a secret has 1 to {SECRET_BYTES} bytes")
    identity = key.identity
    return Sealed(*device.seal(sealed_template(identity.policy.auth_policy(identity.birth)), secret))


def unseal(device: Device, key: BoundaryKey, sealed: Sealed) -> bytes:
    """The secret. :raises DeniedError: ``key_latched``, ``image_not_signed``, ``tpm_refused``."""
    return key.used(sealed.public, sealed.private, device.unseal)
