# SPDX-License-Identifier: Apache-2.0
"""The signature of a site configuration: the last table of its text, over every byte before it.

A signed document is one TOML text that ends in exactly this form::

    [signature]
    signer = '''
    -----BEGIN PUBLIC KEY-----
    …
    -----END PUBLIC KEY-----
    '''
    value = "…"                # base64 of an ECDSA P-256 signature (DER, low s) over SHA-256

(with double quotes around the key). Signed is ``bsfg site`` and a zero byte, then all that stands before the line
``[signature]``. Whoever reads one renders the ending anew: one that differs in a byte is no signature.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import base64_bytes, base64_text
from appliance.keys.operators import sign, verifies
from appliance.keys.tpm.identity import load_p256, spki_pem
from appliance.site.config import SiteConfig
from appliance.site.errors import BadSiteError
from appliance.site.reading import MOST_BYTES, read_site

MARK: Final = b"[signature]\n"
DOMAIN: Final = b"bsfg site\0"


@dataclass(frozen=True, slots=True)
class SignedSite:
    """A document whose signature is good. :param signer: PEM of the key. :param data: the whole text, as it came."""

    config: SiteConfig
    signer: str
    data: bytes

    @property
    def digest(self) -> str:
        """SHA-256 of the whole text, hex."""
        return sha256(self.data).hexdigest()

    @property
    def pinned(self) -> frozenset[str]:
        """Who may sign the next one: whoever signed this one, and whom it names."""
        return frozenset((self.signer, *self.config.signers))


def sign_site(data: bytes, key: ec.EllipticCurvePrivateKey, file: str) -> bytes:
    """A document with a signature, instead of the one it has.

    :raises BadSiteError: ``bad_site``: it is not valid; nothing else is ever signed.
    """
    body = unsigned(data)
    if not body.endswith(b"\n"):
        body += b"\n"
    read_site(body, file)
    signed = body + _ending(spki_pem(key.public_key()), sign(key, DOMAIN + body))
    if len(signed) > MOST_BYTES:
        raise BadSiteError(file, 0, f"{len(signed)} bytes when signed; allowed: at most {MOST_BYTES}")
    return signed


def open_site(data: bytes, file: str) -> SignedSite:
    """Verify, then parse. Whether the signer is one to be trusted is for :mod:`appliance.site.store` to say.

    :raises DeniedError: ``site_unsigned``. :raises BadSiteError: ``bad_site``: signed, and not valid all the same.
    """
    signer = signer_of(data, file)
    return SignedSite(read_site(unsigned(data), file), signer, data)


def signer_of(data: bytes, file: str) -> str:
    """PEM of the key whose signature a document has. :raises DeniedError: ``site_unsigned``: it has none that holds."""
    if len(data) > MOST_BYTES:
        raise BadSiteError(file, 0, f"{len(data)} bytes; allowed: at most {MOST_BYTES}")
    body, ending = _split(data)
    if ending is None:
        raise DeniedError(Reason.SITE_UNSIGNED, f"{file}: it does not end with a table [signature]")
    try:
        table = tomllib.loads(ending.decode("ascii"))["signature"]
        signer, value = table["signer"], base64_bytes(table["value"])
        key = load_p256(signer)
        whole = _ending(spki_pem(key), value) == ending
    except (ValueError, KeyError, TypeError, RefusedError) as error:
        raise DeniedError(Reason.SITE_UNSIGNED, f"{file}: its table [signature] cannot be read: {error}") from error
    if not whole:
        raise DeniedError(Reason.SITE_UNSIGNED, f"{file}: its table [signature] is not as it was written")
    if not verifies(key, DOMAIN + body, value):
        raise DeniedError(Reason.SITE_UNSIGNED, f"{file}: its text is not what was signed")
    return spki_pem(key)


def unsigned(data: bytes) -> bytes:
    """A document without its signature, if it has one."""
    return _split(data)[0]


def _split(data: bytes) -> tuple[bytes, bytes | None]:
    """All before the last line ``[signature]``, and that line with the rest."""
    at = data.rfind(b"\n" + MARK)
    return (data, None) if at < 0 else (data[: at + 1], data[at + 1 :])


def _ending(signer: str, signature: bytes) -> bytes:
    return MARK + f'signer = """\n{signer}"""\nvalue = "{base64_text(signature)}"\n'.encode("ascii")
