# SPDX-License-Identifier: Apache-2.0
"""The firmware's event log: what was measured into which PCR before the kernel ran, and where that leads.

Format: TCG PC Client Platform Firmware Profile 1.06, 10 ("Event Logging"), crypto-agile; Linux shows it as
``binary_bios_measurements``. Little endian. The log comes from the box and may be anything: its size and its number of
events are bounded, every byte is read once, and what does not fit is refused as a whole.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.reader import Reader
from appliance.keys.tpm.public import SHA256

FIRMWARE_LOG_BYTES: Final = 512 * 1024
"""Logs of real machines have 20 to 150 KiB: Secure Boot's deny list is most of it."""
EVENTS: Final = 4096
PCRS: Final = 24

NO_ACTION: Final = 0x00000003
VARIABLE_DRIVER_CONFIG: Final = 0x80000001
"""Event types (table 27): what extends nothing, and a Secure Boot variable."""

_NO_PCR: Final = 0xFFFFFFFF
"""What some firmware writes where an event of type NO_ACTION belongs to no PCR."""
_SIGNATURE: Final = b"Spec ID Event03\0"
_LOCALITY: Final = b"StartupLocality\0"
_LOCALITIES: Final = (0, 3, 4)
_SIZES: Final = {0x0004: 20, 0x000B: 32, 0x000C: 48, 0x000D: 64, 0x0012: 32, 0x0027: 32, 0x0028: 48, 0x0029: 64}
"""Digest sizes by algorithm: SHA-1, SHA-2, SM3, SHA-3 (TPM 2.0 part 2, 6.3)."""
_GLOBAL_VARIABLE: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
"""EFI_GLOBAL_VARIABLE {8be4df61-93ca-11d2-aa0d-00e098032b8c} (UEFI 2.10, 3.3)."""


@dataclass(frozen=True, slots=True)
class FirmwareEvent:
    """One event. :param digest: what extended the PCR's SHA-256 bank."""

    pcr: int
    kind: int
    digest: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class FirmwareLog:
    """A whole log. :param locality: that of TPM2_Startup, which PCR 0 begins with."""

    events: tuple[FirmwareEvent, ...]
    locality: int = 0

    def replay(self) -> dict[int, bytes]:
        """Where the events lead: the value of each PCR that has any, and of PCR 0 (TPM 2.0 part 1, 17.2)."""
        values = {0: bytes(31) + bytes([self.locality])}
        for event in self.events:
            if event.kind != NO_ACTION:
                values[event.pcr] = hashlib.sha256(values.get(event.pcr, bytes(32)) + event.digest).digest()
        return values

    def secure_boot(self) -> bool | None:
        """Whether Secure Boot was on, as PCR 7 was told; ``None``: the log does not say it in a way that is proven."""
        for event in self.events:
            if event.pcr == 7 and event.kind == VARIABLE_DRIVER_CONFIG:
                value = _variable(event.data, "SecureBoot")
                if value is not None:
                    proven = hashlib.sha256(event.data).digest() == event.digest
                    return value == b"\1" if proven else None
        return None


def parse_firmware_log(data: bytes) -> FirmwareLog:
    """Read a log. :raises DeniedError: ``bad_evidence``: too long, or not exactly a crypto-agile log with SHA-256."""
    try:
        if len(data) > FIRMWARE_LOG_BYTES:
            raise ValueError(f"more than {FIRMWARE_LOG_BYTES} bytes")
        reader = Reader(data, "little")
        sizes = _header(reader)
        events, locality = [], 0
        for event in _events(reader, sizes):
            if event.kind == NO_ACTION and event.pcr == 0 and event.data.startswith(_LOCALITY):
                if len(event.data) != 17 or event.data[16] not in _LOCALITIES:
                    raise ValueError("a startup locality that is none")
                locality = event.data[16]
            events.append(event)
    except ValueError as error:
        raise DeniedError(Reason.BAD_EVIDENCE, f"the firmware's event log: {error}") from error
    return FirmwareLog(tuple(events), locality)


def _header(reader: Reader) -> dict[int, int]:
    """The first event, in the old form: it says which algorithms follow (10.4.5.1)."""
    pcr, kind, _ = reader.number(4), reader.number(4), reader.take(20)
    content = Reader(reader.take(reader.number(4)), "little")
    if (pcr, kind) != (0, NO_ACTION) or content.take(16) != _SIGNATURE:
        raise ValueError("not a crypto-agile log")
    content.take(8)  # platform class, version, size of UINTN
    count = content.number(4)
    if not 1 <= count <= len(_SIZES):
        raise ValueError(f"{count} algorithms")
    sizes = {}
    for _ in range(count):
        algorithm, size = content.number(2), content.number(2)
        if _SIZES.get(algorithm) != size or algorithm in sizes:
            raise ValueError(f"algorithm {algorithm:#06x} with {size} bytes")
        sizes[algorithm] = size
    content.take(content.number(1))  # what the vendor adds
    if content or SHA256 not in sizes:
        raise ValueError("a header that does not fit, or without SHA-256")
    return sizes


def _events(reader: Reader, sizes: dict[int, int]) -> Iterator[FirmwareEvent]:
    count = 0
    while reader:
        count += 1
        if count > EVENTS:
            raise ValueError(f"more than {EVENTS} events")
        pcr, kind = reader.number(4), reader.number(4)
        digests: dict[int, bytes] = {}
        if not (pcr < PCRS or (pcr, kind) == (_NO_PCR, NO_ACTION)) or reader.number(4) != len(sizes):
            raise ValueError(f"event {count}: PCR {pcr}, or not one digest for each algorithm")
        for _ in sizes:
            algorithm = reader.number(2)
            if algorithm not in sizes or algorithm in digests:
                raise ValueError(f"event {count}: algorithm {algorithm:#06x}")
            digests[algorithm] = reader.take(sizes[algorithm])
        yield FirmwareEvent(pcr, kind, digests[SHA256], reader.take(reader.number(4)))


def _variable(data: bytes, name: str) -> bytes | None:
    """The content of a UEFI_VARIABLE_DATA (10.2.6) of this name; ``None``: another variable, or not such data."""
    wanted = name.encode("utf-16-le")
    head = _GLOBAL_VARIABLE + struct.pack("<Q", len(name))
    try:
        reader = Reader(data, "little")
        if reader.take(24) != head:
            return None
        size = reader.number(8)
        return None if reader.take(len(wanted)) != wanted else reader.take(size)
    except ValueError:
        return None
