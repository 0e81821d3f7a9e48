# SPDX-License-Identifier: Apache-2.0
"""A certificate in parts (RFC 5280, 4.1), encoded by hand (DER, X.690) and signed."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

ECDSA_SHA256 = bytes.fromhex("06082a8648ce3d040302")
ECDSA_SHA1 = bytes.fromhex("06072a8648ce3d0401")
ECDSA_SHA384 = bytes.fromhex("06082a8648ce3d040303")
ECDSA_SHA512 = bytes.fromhex("06082a8648ce3d040304")
RSA_SHA256 = bytes.fromhex("06092a864886f70d01010b") + b"\x05\x00"
ED25519 = bytes.fromhex("06032b6570")


def tlv(tag: int, *parts: bytes) -> bytes:
    """A tag, a definite length in its shortest form, and the content."""
    content = b"".join(parts)
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE."""
    return tlv(0x30, *parts)


def octets(content: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(0x04, content)


def bits(content: bytes, unused: int = 0) -> bytes:
    """BIT STRING."""
    return tlv(0x03, bytes([unused]), content)


def integer(value: int) -> bytes:
    """INTEGER, in two's complement."""
    size = max(1, (value.bit_length() if value >= 0 else (value + 1).bit_length()) // 8 + 1)
    return tlv(0x02, value.to_bytes(size, signed=True))


def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER."""
    first, second, *rest = map(int, dotted.split("."))
    content = bytearray([first * 40 + second])
    for arc in rest:
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(arc & 0x7F | 0x80)
        content += bytes(reversed(groups))
    return tlv(0x06, bytes(content))


def generalized(moment: datetime) -> bytes:
    """GeneralizedTime or, up to 2049, UTCTime, as RFC 5280 demands."""
    if moment.year < 2050:
        return tlv(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())
    return tlv(0x18, moment.strftime("%Y%m%d%H%M%SZ").encode())


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension; ``flag`` replaces the encoding of its criticality."""

    oid: str
    critical: bool
    value: bytes
    flag: bytes | None = None

    def der(self) -> bytes:
        """Its encoding; FALSE is the default, and so is left out."""
        flag = self.flag if self.flag is not None else b"\x01\x01\xff" if self.critical else b""
        return sequence(oid(self.oid), flag, octets(self.value))


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything in a certificate, and who signs it with what."""

    serial: bytes
    issuer: bytes
    not_before: datetime
    not_after: datetime
    subject: bytes
    spki: bytes
    extensions: tuple[Extension, ...]
    signer: Key
    version: bytes = tlv(0xA0, b"\x02\x01\x02")
    inner: bytes = ECDSA_SHA256
    outer: bytes = ECDSA_SHA256
    digest: hashes.HashAlgorithm = field(default_factory=hashes.SHA256)
    tail: bytes = b""
    validity: bytes | None = None

    @classmethod
    def of(cls, certificate: x509.Certificate, signer: Key) -> Parts:
        """The parts of a certificate that a library wrote; encoded again they are the same certificate, signed anew."""
        extensions = tuple(
            Extension(one.oid.dotted_string, one.critical, one.value.public_bytes()) for one in certificate.extensions
        )
        return cls(
            integer(certificate.serial_number),
            certificate.issuer.public_bytes(),
            certificate.not_valid_before_utc,
            certificate.not_valid_after_utc,
            certificate.subject.public_bytes(),
            certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            extensions,
            signer,
        )

    def extension(self, wanted: str) -> Extension:
        """One extension by its OID."""
        return next(one for one in self.extensions if one.oid == wanted)

    def having(self, *changed: Extension) -> Parts:
        """With these extensions in the place of those with the same OID, or added."""
        new = {one.oid: one for one in changed}
        kept = [new.pop(one.oid, one) for one in self.extensions]
        return replace(self, extensions=(*kept, *new.values()))

    def without(self, *wanted: str) -> Parts:
        """Without some extensions."""
        return replace(self, extensions=tuple(one for one in self.extensions if one.oid not in wanted))

    def tbs(self) -> bytes:
        """TBSCertificate."""
        validity = self.validity or sequence(generalized(self.not_before), generalized(self.not_after))
        listed = tlv(0xA3, sequence(*(one.der() for one in self.extensions))) if self.extensions else b""
        head = (self.version, self.serial, sequence(self.inner), self.issuer, validity, self.subject, self.spki)
        return sequence(*head, listed, self.tail)

    def signature(self) -> bytes:
        """Over :meth:`tbs`, by the signer."""
        data = self.tbs()
        if isinstance(self.signer, ec.EllipticCurvePrivateKey):
            return self.signer.sign(data, ec.ECDSA(self.digest))
        if isinstance(self.signer, rsa.RSAPrivateKey):
            return self.signer.sign(data, PKCS1v15(), self.digest)
        return self.signer.sign(data)

    def der(self, signature: bytes | None = None) -> bytes:
        """The certificate, by choice with another signature."""
        return sequence(self.tbs(), sequence(self.outer), bits(self.signature() if signature is None else signature))


def san(*names: bytes) -> bytes:
    """SubjectAltName."""
    return sequence(*names)


def dns(name: str | bytes) -> bytes:
    """DNSName."""
    return tlv(0x82, name.encode("utf-8") if isinstance(name, str) else name)


def uses(*dotted: str) -> bytes:
    """ExtKeyUsage."""
    return sequence(*map(oid, dotted))


def at(year: int, month: int = 1, day: int = 1) -> datetime:
    """A moment."""
    return datetime(year, month, day, tzinfo=UTC)


def chain_pem(certificates: Sequence[bytes]) -> bytes:
    """Certificates as PEM, whatever they hold."""
    text = b""
    for der in certificates:
        body = base64.b64encode(der)
        lines = b"\n".join(body[start : start + 64] for start in range(0, len(body), 64))
        text += b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"
    return text
