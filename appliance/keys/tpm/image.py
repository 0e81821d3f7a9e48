# SPDX-License-Identifier: Apache-2.0
"""The image key's signatures over PCR 11, in systemd's JSON format (systemd-measure(1), ``.pcrsig``). Pure.

``{"sha256": [{"pcrs": [11], "pkfp": …, "pol": …, "sig": …}, …]}``: ``pkfp`` is the SHA-256 of the key's PKCS #1 DER,
``pol`` the digest of a policy that is PolicyPCR alone, ``sig`` an RSASSA signature with SHA-256 over ``pol``.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.policy import IMAGE_PCR
from appliance.keys.tpm.public import Digest, sha256


@dataclass(frozen=True, slots=True)
class ImageSignatures:
    """The signatures that came with an image: by policy digest."""

    fingerprint: str
    by_policy: dict[Digest, bytes]

    @classmethod
    def parse(cls, data: bytes, key: rsa.RSAPublicKey) -> ImageSignatures:
        """Take the entries over PCR 11 by ``key`` from systemd's JSON; others are not for us.

        :raises RefusedError: ``bad_input``: the text has another form.
        """
        own, found = fingerprint(key), {}
        try:
            for entry in json.loads(data)["sha256"]:
                if entry["pcrs"] == [IMAGE_PCR] and entry["pkfp"] == own:
                    digest = Digest(bytes.fromhex(entry["pol"]))
                    found[digest] = base64.b64decode(entry["sig"], validate=True)
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(Reason.BAD_INPUT, f"PCR signatures: {error!r}") from error
        return cls(own, found)

    def over(self, digest: Digest, key: rsa.RSAPublicKey) -> bytes:
        """The signature over a policy digest. :raises DeniedError: ``image_not_signed``: none verifies."""
        signature = self.by_policy.get(digest)
        if signature is None:
            raise DeniedError(Reason.IMAGE_NOT_SIGNED, f"no signature over the policy {digest.hex()[:16]}…")
        try:
            key.verify(signature, digest, padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature as error:
            raise DeniedError(Reason.IMAGE_NOT_SIGNED, "the signature does not verify") from error
        return signature


def fingerprint(key: rsa.RSAPublicKey) -> str:
    """How systemd's format names a key: SHA-256 of its PKCS #1 form, not of its SubjectPublicKeyInfo."""
    return sha256(key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)).hex()
