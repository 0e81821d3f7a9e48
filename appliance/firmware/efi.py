# SPDX-License-Identifier: Apache-2.0
"""The formats of Secure Boot's variables: who owns them, signature lists, times (UEFI 2.10, 8.2 and 32.4).

Pure. Lists are read strictly: every byte belongs to something, and what does not fit is refused as a whole.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final
from uuid import UUID

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

GLOBAL_VARIABLE: Final = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
IMAGE_SECURITY_DATABASE: Final = UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f")
CERT_X509: Final = UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072")
CERT_SHA256: Final = UUID("c1c41626-504c-4092-aca9-41f936934328")
CERT_PKCS7: Final = UUID("4aafd29d-68df-49ee-8aa9-347d375665a7")

NON_VOLATILE: Final = 0x01
BOOT_SERVICE_ACCESS: Final = 0x02
RUNTIME_ACCESS: Final = 0x04
TIME_BASED_AUTHENTICATED: Final = 0x20
APPEND_WRITE: Final = 0x40
KEY_ATTRIBUTES: Final = NON_VOLATILE | BOOT_SERVICE_ACCESS | RUNTIME_ACCESS | TIME_BASED_AUTHENTICATED

SHA256_BYTES: Final = 32
_LIST_HEAD: Final = struct.Struct("<16sLLL")
_TIME: Final = struct.Struct("<HBBBBBBLhBB")
TIME_BYTES: Final = _TIME.size


class KeyVariable(StrEnum):
    """A variable that holds keys, by the name it has in the firmware."""

    PK = "PK"
    KEK = "KEK"
    DB = "db"
    DBX = "dbx"

    @property
    def vendor(self) -> UUID:
        """The name space it stands in."""
        return GLOBAL_VARIABLE if self in {KeyVariable.PK, KeyVariable.KEK} else IMAGE_SECURITY_DATABASE

    @property
    def utf16(self) -> bytes:
        """Its name as firmware hashes it: UTF-16, without the NUL."""
        return self.encode("utf-16-le")


@dataclass(frozen=True, slots=True)
class Signature:
    """One entry of a list. :param owner: who put it there. :param data: a certificate (DER), or a SHA-256 digest."""

    owner: UUID
    data: bytes

    def render(self) -> bytes:
        """EFI_SIGNATURE_DATA."""
        return self.owner.bytes_le + self.data


@dataclass(frozen=True, slots=True)
class SignatureList:
    """Entries of one kind and one size: certificates, each in a list of its own, or digests."""

    kind: UUID
    signatures: tuple[Signature, ...]

    def render(self) -> bytes:
        """EFI_SIGNATURE_LIST, without a header of its own: no kind that is used here has one."""
        body = b"".join(signature.render() for signature in self.signatures)
        size = len(self.signatures[0].render())
        return _LIST_HEAD.pack(self.kind.bytes_le, _LIST_HEAD.size + len(body), 0, size) + body


def certificate_list(owner: UUID, der: bytes) -> SignatureList:
    """A list with one certificate."""
    return SignatureList(CERT_X509, (Signature(owner, der),))


def digest_list(owner: UUID, *digests: bytes) -> SignatureList:
    """A list of SHA-256 digests, of what must not (dbx) or may (db) run."""
    return SignatureList(CERT_SHA256, tuple(Signature(owner, digest) for digest in digests))


def render_lists(lists: tuple[SignatureList, ...]) -> bytes:
    """The content of a variable."""
    return b"".join(one.render() for one in lists)


def parse_lists(data: bytes) -> tuple[SignatureList, ...]:
    """Read a variable's content. :raises RefusedError: ``firmware_keys``: not exactly a row of signature lists."""
    found, at = [], 0
    while at < len(data):
        if len(data) - at < _LIST_HEAD.size:
            raise RefusedError(Reason.FIRMWARE_KEYS, "a signature list is cut off")
        kind, whole, header, size = _LIST_HEAD.unpack_from(data, at)
        body = whole - _LIST_HEAD.size - header
        if size <= 16 or body <= 0 or body % size or at + whole > len(data):
            raise RefusedError(Reason.FIRMWARE_KEYS, "a signature list has sizes that do not fit")
        start = at + _LIST_HEAD.size + header
        entries = tuple(
            Signature(UUID(bytes_le=data[i : i + 16]), data[i + 16 : i + size])
            for i in range(start, start + body, size)
        )
        found.append(SignatureList(UUID(bytes_le=kind), entries))
        at += whole
    return tuple(found)


def appended(content: bytes, more: bytes) -> bytes:
    """What a variable holds after an append: entries that it had already are left out, as firmware does (8.2.1).

    :raises RefusedError: ``firmware_keys``: one of the two is no row of signature lists.
    """
    known = {(one.kind, entry) for one in parse_lists(content) for entry in one.signatures}
    rest = []
    for one in parse_lists(more):
        fresh = tuple(entry for entry in one.signatures if (one.kind, entry) not in known)
        if fresh:
            rest.append(SignatureList(one.kind, fresh))
    return content + render_lists(tuple(rest))


def render_time(moment: datetime) -> bytes:
    """EFI_TIME as signed updates carry it: whole seconds of UTC, everything else zero."""
    at = moment.astimezone(UTC)
    return _TIME.pack(at.year, at.month, at.day, at.hour, at.minute, at.second, 0, 0, 0, 0, 0)


def parse_time(data: bytes) -> datetime:
    """Read EFI_TIME. :raises RefusedError: ``firmware_keys``: no moment, or not in the form that updates must have."""
    try:
        year, month, day, hour, minute, second, *zeros = _TIME.unpack(data)
        if any(zeros):
            raise ValueError("fields that must be zero are not")
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except (struct.error, ValueError) as error:
        raise RefusedError(Reason.FIRMWARE_KEYS, f"a time: {error}") from error
