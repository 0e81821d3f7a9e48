# SPDX-License-Identifier: Apache-2.0
"""Signed updates of Secure Boot's variables: EFI_VARIABLE_AUTHENTICATION_2 and content, the form of ``.auth`` files.

The signature is a PKCS #7 SignedData without the outer ContentInfo (UEFI 2.10, 8.2.2; older firmware refuses it with
one), over name, vendor, attributes, time and content. It is made and taken in one form only: whoever checks an update
builds the form anew around its signature and compares every byte, and only then verifies with RSA.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware.efi import (
    APPEND_WRITE,
    CERT_PKCS7,
    KEY_ATTRIBUTES,
    TIME_BYTES,
    KeyVariable,
    parse_time,
    render_time,
)

UPDATE_BYTES: Final = 256 * 1024
"""More is no update of ours; a firmware's store for variables is smaller."""
_REVISION: Final = 0x0200
_WIN_CERT_TYPE_EFI_GUID: Final = 0x0EF1
_WIN_CERT: Final = struct.Struct("<LHH16s")

_DATA: Final = bytes.fromhex("06092a864886f70d010701")
_SHA256: Final = bytes.fromhex("300d06096086480165030402010500")
_RSA: Final = bytes.fromhex("300d06092a864886f70d0101010500")
_VERSION_1: Final = bytes.fromhex("020101")


@dataclass(frozen=True, slots=True)
class SignedUpdate:
    """One update of one variable.

    :param append: whether the content is added to what is there, or replaces it.
    :param when: firmware takes no replacement that is not newer than the last; whole seconds.
    :param content: signature lists. :param signature: a SignedData.
    """

    variable: KeyVariable
    append: bool
    when: datetime
    content: bytes
    signature: bytes

    @property
    def attributes(self) -> int:
        """With which the variable must be written; they are signed as well."""
        return KEY_ATTRIBUTES | (APPEND_WRITE if self.append else 0)

    def render(self) -> bytes:
        """The bytes of an ``.auth`` file: header, signature, content."""
        head = _WIN_CERT.pack(
            _WIN_CERT.size + len(self.signature), _REVISION, _WIN_CERT_TYPE_EFI_GUID, CERT_PKCS7.bytes_le
        )
        return render_time(self.when) + head + self.signature + self.content

    def efivarfs(self) -> bytes:
        """The same as Linux wants it written, in one go, to the variable's file in efivarfs."""
        return struct.pack("<L", self.attributes) + self.render()

    def verified_by(self, signers: Iterable[x509.Certificate]) -> bool:
        """Whether one of these certificates' keys signed exactly this."""
        return any(self._verified(signer) for signer in signers)

    def _verified(self, signer: x509.Certificate) -> bool:
        key = signer.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            return False
        raw = self.signature[-(key.key_size // 8) :]
        if _signed_data(signer, raw) != self.signature:
            return False
        try:
            key.verify(raw, _statement(self), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True


def sign_update(
    variable: KeyVariable,
    content: bytes,
    when: datetime,
    key: rsa.RSAPrivateKey,
    certificate: x509.Certificate,
    *,
    append: bool,
) -> SignedUpdate:
    """An update signed by a key: PK and KEK by a PK, db and dbx by a KEK. The same input gives the same bytes."""
    bare = SignedUpdate(variable, append, when.replace(microsecond=0), content, b"")
    raw = key.sign(_statement(bare), padding.PKCS1v15(), hashes.SHA256())
    return SignedUpdate(variable, append, bare.when, content, _signed_data(certificate, raw))


def parse_update(data: bytes, variable: KeyVariable, *, append: bool) -> SignedUpdate:
    """Read an ``.auth`` file; its signature is not checked yet.

    The file does not say for which variable it is, nor whether it appends: its name does, and both are signed.

    :raises RefusedError: ``firmware_keys``: not such a file.
    """
    head = TIME_BYTES + _WIN_CERT.size
    if not head < len(data) <= UPDATE_BYTES:
        raise RefusedError(Reason.FIRMWARE_KEYS, f"an update of {len(data)} bytes")
    when = parse_time(data[:TIME_BYTES])
    length, revision, kind, form = _WIN_CERT.unpack_from(data, TIME_BYTES)
    end = TIME_BYTES + length
    if (revision, kind, form) != (_REVISION, _WIN_CERT_TYPE_EFI_GUID, CERT_PKCS7.bytes_le) or not head < end <= len(
        data
    ):
        raise RefusedError(Reason.FIRMWARE_KEYS, "not a signed update of a variable")
    return SignedUpdate(variable, append, when, data[end:], data[head:end])


def content_info(signature: bytes) -> bytes:
    """A SignedData in the wrapping that OpenSSL and others want to see."""
    return _tlv(0x30, bytes.fromhex("06092a864886f70d010702"), _tlv(0xA0, signature))


def statement(update: SignedUpdate) -> bytes:
    """What is signed: for checks with other programs."""
    return _statement(update)


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of a certificate, as firmware setup menus show it: lower-case hex."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def _statement(update: SignedUpdate) -> bytes:
    return (
        update.variable.utf16
        + update.variable.vendor.bytes_le
        + struct.pack("<L", update.attributes)
        + render_time(update.when)
        + update.content
    )


def _signed_data(certificate: x509.Certificate, raw: bytes) -> bytes:
    """SignedData of PKCS #7 1.5, version 1 (RFC 2315, 9.1): SHA-256, detached, no attributes, one certificate."""
    serial = certificate.serial_number
    issuer_and_serial = _tlv(
        0x30, certificate.issuer.public_bytes(), _tlv(0x02, serial.to_bytes(serial.bit_length() // 8 + 1))
    )
    signer = _tlv(0x30, _VERSION_1, issuer_and_serial, _SHA256, _RSA, _tlv(0x04, raw))
    return _tlv(
        0x30,
        _VERSION_1,
        _tlv(0x31, _SHA256),
        _tlv(0x30, _DATA),
        _tlv(0xA0, certificate.public_bytes(Encoding.DER)),
        _tlv(0x31, signer),
    )


def _tlv(tag: int, *parts: bytes) -> bytes:
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(length)]) + length + content
