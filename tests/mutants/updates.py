# SPDX-License-Identifier: Apache-2.0
"""Signed updates of Secure Boot's variables as an attacker might make them, by class, without the original."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.firmware.changes import revoke
from appliance.firmware.efi import KeyVariable, digest_list
from appliance.firmware.keys import SecureBootKeys, new_key
from appliance.firmware.signed import SignedUpdate, sign_update

HEAD = 16
"""Bytes of EFI_TIME, in front of the certificate's header."""
CERTIFICATE_HEAD = 24


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is handed to the firmware. ``kind`` is the class it counts for."""

    kind: str
    name: str
    variable: KeyVariable
    append: bool
    data: bytes


def mutants(keys: SecureBootKeys, original: SignedUpdate) -> list[Mutant]:
    """Distinct mutants of an update of db or dbx that the KEK signed, by appending."""
    found: dict[tuple[KeyVariable, bool, bytes], Mutant] = {}
    for one in (
        *_flips(original),
        *_lengths(original),
        *_places(original),
        *_times(original),
        *_contents(keys, original),
        *_signers(keys, original),
    ):
        key = (one.variable, one.append, one.data)
        if key != (original.variable, original.append, original.render()):
            found.setdefault(key, one)
    return list(found.values())


def _flips(original: SignedUpdate) -> Iterator[Mutant]:
    """One bit, all over the file: thickly in header and content, thinly in the signature."""
    data = original.render()
    signature = range(HEAD + CERTIFICATE_HEAD, HEAD + CERTIFICATE_HEAD + len(original.signature))
    for at in range(len(data)):
        inside = at in signature
        if inside and at % 9:
            continue
        bit = at % 8
        changed = bytearray(data)
        changed[at] ^= 1 << bit
        kind = "flip in the signature" if inside else "flip in header or content"
        yield _as(original, kind, f"byte {at}, bit {bit}", bytes(changed))


def _lengths(original: SignedUpdate) -> Iterator[Mutant]:
    data, signed = original.render(), HEAD + CERTIFICATE_HEAD + len(original.signature)
    for cut in (0, 1, HEAD, HEAD + CERTIFICATE_HEAD, signed - 1, signed, len(data) - 48, len(data) - 1):
        yield _as(original, "cut off", f"after {cut} bytes", data[:cut])
    for more in (1, 4, 48):
        yield _as(original, "longer", f"{more} bytes more at the end", data + bytes(more))
    for move in (-16, -1, 1, 16):
        length = struct.pack("<L", CERTIFICATE_HEAD + len(original.signature) + move)
        yield _as(original, "moved border", f"{move:+} bytes", data[:HEAD] + length + data[HEAD + 4 :])


def _places(original: SignedUpdate) -> Iterator[Mutant]:
    """The same bytes for another variable, or as a replacement."""
    data = original.render()
    for variable in KeyVariable:
        for append in (True, False):
            if (variable, append) != (original.variable, original.append):
                yield Mutant("another place", f"{variable}, append {append}", variable, append, data)


def _times(original: SignedUpdate) -> Iterator[Mutant]:
    for days in (-3650, -1, 1, 3650):
        moved = replace(original, when=original.when + timedelta(days=days))
        yield _as(original, "another time", f"{days:+} days", moved.render())


def _contents(keys: SecureBootKeys, original: SignedUpdate) -> Iterator[Mutant]:
    """Another content under the same signature."""
    for number in range(8):
        digest = bytes([number]) * 32
        other = revoke_content(keys, digest)
        yield _as(original, "another content", f"digest {number}", replace(original, content=other).render())
        twice = replace(original, content=original.content + other)
        yield _as(original, "another content", f"and digest {number}", twice.render())
    yield _as(original, "another content", "none", replace(original, content=b"").render())


def _signers(keys: SecureBootKeys, original: SignedUpdate) -> Iterator[Mutant]:
    """Well signed, by somebody who may not."""
    stranger, named = new_key(KeyVariable.KEK, "Stranger", 1, original.when)
    true = keys.kek.certificate()
    twin = _twin(true, stranger)
    db, db_certificate = keys.db.open(), keys.db.certificate()
    chosen: list[tuple[str, rsa.RSAPrivateKey, x509.Certificate]] = [
        ("stranger", stranger, named),
        ("stranger under the KEK's certificate", stranger, true),
        ("stranger with the KEK's names and numbers", stranger, twin),
        ("db key", db, db_certificate),
        ("db key under the KEK's certificate", db, true),
        ("db key's certificate over the stranger's key", stranger, db_certificate),
    ]
    for name, key, certificate in chosen:
        made = sign_update(original.variable, original.content, original.when, key, certificate, append=original.append)
        yield _as(original, "another signer", name, made.render())
        mixed = replace(original, signature=made.signature[:-256] + original.signature[-256:])
        yield _as(original, "another signer", f"{name}, signature of the original", mixed.render())
    unsigned = replace(original, signature=b"")
    yield _as(original, "another signer", "nobody", unsigned.render())


def _twin(certificate: x509.Certificate, key: rsa.RSAPrivateKey) -> x509.Certificate:
    """A certificate with the same names, numbers and dates for another key."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(certificate.subject)
        .issuer_name(certificate.issuer)
        .public_key(key.public_key())
        .serial_number(certificate.serial_number)
        .not_valid_before(certificate.not_valid_before_utc)
        .not_valid_after(certificate.not_valid_after_utc)
    )
    for extension in certificate.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    twin = builder.sign(key, hashes.SHA256())
    assert twin.public_bytes(serialization.Encoding.DER) != certificate.public_bytes(serialization.Encoding.DER)
    return twin


def revoke_content(keys: SecureBootKeys, digest: bytes) -> bytes:
    """What an update that revokes a digest would hold."""
    return digest_list(keys.owner, digest).render()


def _as(original: SignedUpdate, kind: str, name: str, data: bytes) -> Mutant:
    return Mutant(kind, name, original.variable, original.append, data)


def new_update(keys: SecureBootKeys, digest: bytes) -> SignedUpdate:
    """An update of dbx that boxes with these keys take."""
    return revoke(keys, digests=[digest]).updates()[0][1]
