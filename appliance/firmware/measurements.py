# SPDX-License-Identifier: Apache-2.0
"""What a TPM will hold after a boot, computed beforehand: PCR 7 from the keys, PCR 11 from the kernel image.

Pure. PCR 7 (TCG PC Client Platform Firmware Profile 1.06, 3.3.4.8): the firmware measures SecureBoot, PK, KEK, db and
dbx, then a separator, and then the entry of db by which it took the first program that it started. PCR 11 (systemd's
stub, UAPI.7): name and content of each section of the kernel image, then a word for each phase of the boot. Firmware
of a real box may measure more into PCR 7, such as the entry for an adapter's option ROM: then it differs, always the
same way, and the value is read from the box.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping
from typing import Final
from uuid import UUID

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware.efi import (
    CERT_X509,
    GLOBAL_VARIABLE,
    IMAGE_SECURITY_DATABASE,
    KeyVariable,
    parse_lists,
)
from appliance.firmware.pe import Section

ZERO: Final = bytes(32)
SEPARATOR: Final = bytes(4)
PHASES: Final = ("enter-initrd", "leave-initrd", "sysinit", "ready")
"""The words of a normal boot, in their order."""
MEASURED_SECTIONS: Final = (
    ".linux",
    ".osrel",
    ".cmdline",
    ".initrd",
    ".ucode",
    ".splash",
    ".dtb",
    ".uname",
    ".sbat",
    ".pcrpkey",
)
"""In the order in which the stub measures them. ``.pcrsig`` cannot be: it signs the outcome."""
CHOSEN_SECTIONS: Final = (".profile", ".dtbauto", ".hwids", ".efifw")
"""The stub takes one of several, by menu or machine: the outcome is then not one value."""


def extend(value: bytes, *digests: bytes) -> bytes:
    """A SHA-256 PCR after these digests."""
    for digest in digests:
        value = hashlib.sha256(value + digest).digest()
    return value


def variable_event(vendor: UUID, name: str, content: bytes) -> bytes:
    """UEFI_VARIABLE_DATA: what is hashed of a variable."""
    return vendor.bytes_le + struct.pack("<QQ", len(name), len(content)) + name.encode("utf-16-le") + content


def pcr7(contents: Mapping[KeyVariable, bytes], authorities: Iterable[bytes], *, secure_boot: bool = True) -> bytes:
    """PCR 7 after the boot loader was started.

    :param contents: of the four variables; one that is missing counts as empty.
    :param authorities: the entries of db (owner and certificate) that let programs start, each once; none if Secure
        Boot is off.
    """
    events = [variable_event(GLOBAL_VARIABLE, "SecureBoot", bytes([secure_boot]))]
    events += [variable_event(variable.vendor, variable, contents.get(variable, b"")) for variable in KeyVariable]
    events.append(SEPARATOR)
    events += [variable_event(IMAGE_SECURITY_DATABASE, "db", entry) for entry in dict.fromkeys(authorities)]
    return extend(ZERO, *(hashlib.sha256(event).digest() for event in events))


def authority(db: bytes, certificate: bytes) -> bytes:
    """The entry of db that holds a certificate (DER). :raises RefusedError: ``firmware_keys``: db has none."""
    for one in parse_lists(db):
        for entry in one.signatures:
            if one.kind == CERT_X509 and entry.data == certificate:
                return entry.render()
    raise RefusedError(Reason.FIRMWARE_KEYS, "db does not hold the certificate that signs the image")


def expected_pcr7(contents: Mapping[KeyVariable, bytes], certificate: bytes) -> bytes:
    """PCR 7 of a box with these variables and Secure Boot on, whose boot loader and kernel image one key signed."""
    return pcr7(contents, [authority(contents[KeyVariable.DB], certificate)])


def pcr11(sections: Iterable[Section]) -> dict[str, bytes]:
    """PCR 11 for each phase of the boot of a kernel image; the keys are as systemd writes them (``a:b``).

    The first, under the empty key, is the value before any phase.

    :raises RefusedError: ``bad_image``: no kernel image, or one whose outcome is chosen at boot.
    """
    found: dict[str, bytes] = {}
    for section in sections:
        if section.name in CHOSEN_SECTIONS or (section.name in MEASURED_SECTIONS and section.name in found):
            raise RefusedError(Reason.BAD_IMAGE, f"section {section.name}: what is measured is chosen at boot")
        found[section.name] = section.data
    if ".linux" not in found:
        raise RefusedError(Reason.BAD_IMAGE, "no kernel image: it has no section .linux")
    value = ZERO
    for name in MEASURED_SECTIONS:
        if name in found:
            value = extend(value, hashlib.sha256(name.encode() + b"\0").digest(), hashlib.sha256(found[name]).digest())
    values, path = {"": value}, ""
    for phase in PHASES:
        value = extend(value, hashlib.sha256(phase.encode()).digest())
        path = f"{path}:{phase}" if path else phase
        values[path] = value
    return values


def running_values(sections: Iterable[Section]) -> tuple[bytes, ...]:
    """PCR 11 in the phases in which the root system runs: what an attestation may show."""
    return tuple(value for path, value in pcr11(sections).items() if path.count(":") >= 1)
