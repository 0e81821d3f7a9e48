# SPDX-License-Identifier: Apache-2.0
"""Which TPM vendors a hub believes: a folder of CA certificates, and the strict check of an endorsement certificate.

Dates are not asked: vendors let certificates of TPMs that work in the field run out, and a TPM does not become another
by that. All else is: each step of the chain is signed, by a CA, for certificates, within its path length. (RFC 5280,
6.1; TCG EK Credential Profile for TPM 2.0, revision 2.5, 3.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.endorsement import endorsement_key, load_certificate, spki

EK_USAGE: Final = x509.ObjectIdentifier("2.23.133.8.1")
"""tcg-kp-EKCertificate: the purpose of an endorsement certificate."""
LONGEST_CHAIN: Final = 6
"""CA certificates above an endorsement certificate; vendors have two or three."""
_UNDERSTOOD: Final = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,  # names the TPM's maker, model and version
    ExtensionOID.CERTIFICATE_POLICIES,
}


@dataclass(frozen=True, slots=True)
class TpmVendors:
    """CA certificates of TPM vendors; each is trusted because an operator put it there."""

    authorities: tuple[x509.Certificate, ...]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """All certificates of all ``*.pem`` files. :raises RefusedError: ``bad_input`` with the file's name."""
        found: list[x509.Certificate] = []
        for path in sorted(folder.glob("*.pem")):
            try:
                found += x509.load_pem_x509_certificates(path.read_bytes())
            except (OSError, ValueError, x509.InvalidVersion) as error:
                raise RefusedError(Reason.BAD_INPUT, f"{path}: {error}") from error
        return cls(tuple(found))

    def check(self, certificate: bytes, public: bytes) -> str:
        """An endorsement certificate (DER) is a known vendor's, and for this key (TPMT_PUBLIC); answers the vendor.

        :raises DeniedError: ``ek_uncertified``: there is none; ``ek_mismatch``: it is for another key, or none at all;
            ``ek_unknown_vendor``: no chain to a CA of this folder.
        """
        if not certificate:
            raise DeniedError(Reason.EK_UNCERTIFIED)
        try:
            return self._check(load_certificate(certificate), public)
        except RefusedError as error:
            raise DeniedError(Reason.EK_MISMATCH, error.detail) from error
        except (ValueError, UnsupportedAlgorithm) as error:  # names and keys are read when they are asked for
            raise DeniedError(Reason.EK_MISMATCH, f"the certificate cannot be read: {error}") from error

    def _check(self, leaf: x509.Certificate, public: bytes) -> str:
        if spki(leaf.public_key()) != spki(endorsement_key(public)):
            raise DeniedError(Reason.EK_MISMATCH)
        _check_leaf(leaf)
        chain = self._chain(leaf)
        if not chain:
            raise DeniedError(Reason.EK_UNKNOWN_VENDOR, f"issued by {leaf.issuer.rfc4514_string()[:200]!r}")
        return chain[-1].subject.rfc4514_string()

    def _chain(self, leaf: x509.Certificate) -> list[x509.Certificate]:
        """The CAs above a certificate, up to one that signed itself or the last one of the folder."""
        chain: list[x509.Certificate] = []
        below = leaf
        while len(chain) < LONGEST_CHAIN:
            above = next((each for each in self.authorities if _issued(below, each, len(chain))), None)
            if above is None or above in chain:
                break
            chain.append(above)
            below = above
        return chain


def _issued(below: x509.Certificate, above: x509.Certificate, between: int) -> bool:
    """Whether a CA may have issued a certificate, and did. :param between: CA certificates between it and the leaf."""
    try:
        below.verify_directly_issued_by(above)
        extensions = _understood(above)
        basic = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = next((each.value for each in extensions if isinstance(each.value, x509.KeyUsage)), None)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, x509.ExtensionNotFound):
        return False
    long_enough = basic.path_length is None or basic.path_length >= between
    return basic.ca and long_enough and (usage is None or usage.key_cert_sign)


def _check_leaf(leaf: x509.Certificate) -> None:
    """What the profile demands of an endorsement certificate itself. :raises DeniedError: ``ek_mismatch``."""
    try:
        values: Sequence[x509.ExtensionType] = [each.value for each in _understood(leaf)]
        is_rsa = isinstance(leaf.public_key(), rsa.RSAPublicKey)
    except ValueError as error:
        raise DeniedError(Reason.EK_MISMATCH, f"the certificate: {error}") from error
    for value in values:
        if isinstance(value, x509.BasicConstraints) and value.ca:
            raise DeniedError(Reason.EK_MISMATCH, "it is a CA's certificate, not a TPM's")
        if isinstance(value, x509.ExtendedKeyUsage) and EK_USAGE not in value:
            raise DeniedError(Reason.EK_MISMATCH, "its purpose is not that of an endorsement key")
        if isinstance(value, x509.KeyUsage) and not (value.key_encipherment if is_rsa else value.key_agreement):
            raise DeniedError(Reason.EK_MISMATCH, "its key usage is not that of an endorsement key")


def _understood(certificate: x509.Certificate) -> x509.Extensions:
    """Its extensions. :raises ValueError: one is critical that nobody here understands, or they cannot be read."""
    try:
        extensions = certificate.extensions
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise ValueError(str(error)) from error
    for extension in extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise ValueError(f"the critical extension {extension.oid.dotted_string} is not understood")
    return extensions
