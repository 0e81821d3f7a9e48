# SPDX-License-Identifier: Apache-2.0
"""Run :file:`probe.c` as a signed EFI program in OVMF, with our variable store and a software TPM, and read its lines.

A run takes a few seconds of emulation; a store with hundreds of updates to try costs no more than one.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.firmware.efi import KeyVariable
from appliance.firmware.pe import authenticode
from tests.efi import efi_program, with_signature
from tests.mutants.der import integer, octets, oid, sequence, tlv

FIRMWARE: Final = Path("/usr/share/OVMF")
CODE, STORE = FIRMWARE / "OVMF_CODE_4M.secboot.fd", FIRMWARE / "OVMF_VARS_4M.fd"
TOOLS: Final = ("qemu-system-x86_64", "swtpm", "gcc", "ld")
LIMIT_S: Final = 120
SUCCESS, INVALID_PARAMETER, SECURITY_VIOLATION = 0, 1 << 63 | 2, 1 << 63 | 26
"""EFI_STATUS (UEFI 2.10, appendix D)."""
_NOTHING: Final = b"No bootable option or device was found"
_REFUSED: Final = 'failed to load Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0x1,0x0): Access Denied'
"""What OVMF prints."""
_HERE: Final = Path(__file__).parent
_SCRIPT: Final = "SECTIONS { . = 0; .all : { *(.text.start) *(.text*) *(.rodata*) cases = .; } /DISCARD/ : { *(*) } }"


@dataclass(frozen=True, slots=True)
class Case:
    """An update to try: as Linux would write it, without the attributes in front."""

    variable: KeyVariable
    attributes: int
    data: bytes


@dataclass(slots=True)
class Told:
    """What the firmware said. :param pcr7: before and after the updates. :param statuses: one for each case.

    :param ended: the program ran to its end. :param refused: the firmware found it not signed by who may.
    """

    pcr7: list[bytes] = field(default_factory=list)
    log: bytes = b""
    statuses: list[int] = field(default_factory=list)
    variables: dict[tuple[str, UUID], tuple[int, bytes]] = field(default_factory=dict)
    ended: bool = False
    refused: bool = False


def missing() -> str:
    """What this machine lacks for a run; empty if nothing."""
    return ", ".join(
        [tool for tool in TOOLS if shutil.which(tool) is None]
        + [str(path) for path in (CODE, STORE) if not path.exists()]
    )


def program(folder: Path, cases: Sequence[Case]) -> bytes:
    """The probe as an EFI program that is not signed yet."""
    script, made = folder / "probe.ld", folder / "probe.o"
    script.write_text(_SCRIPT, "ascii")
    flags = ["-Os", "-Wall", "-Wextra", "-Werror", "-ffreestanding", "-fpie", "-mno-red-zone", "-fno-stack-protector"]
    flags += ["-fno-asynchronous-unwind-tables", "-fcf-protection=none", "-mgeneral-regs-only"]
    subprocess.run(["gcc", *flags, "-c", _HERE / "probe.c", "-o", made], check=True)
    subprocess.run(["ld", "-T", script, "--oformat=binary", "-o", folder / "probe.bin", made], check=True)
    code = (folder / "probe.bin").read_bytes()
    names = list(KeyVariable)
    blob = struct.pack("<L", len(cases)) + b"".join(
        struct.pack("<LLL", names.index(case.variable), case.attributes, len(case.data)) + case.data for case in cases
    )
    return efi_program([(".text", code + blob)])


def signed(program_: bytes, key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> bytes:
    """An EFI program with an Authenticode signature (no attributes, so the digest's owner is all that is signed)."""
    sha256 = sequence(oid("2.16.840.1.101.3.4.2.1"), b"\x05\0")
    digest = sequence(sha256, octets(authenticode(program_)))
    obsolete = tlv(0xA0, tlv(0xA2, tlv(0x80, "<<<Obsolete>>>".encode("utf-16-be"))))
    attribute = sequence(oid("1.3.6.1.4.1.311.2.1.15"), sequence(tlv(0x03, b"\0"), obsolete))
    content = attribute + digest
    raw = key.sign(content, padding.PKCS1v15(), hashes.SHA256())
    issuer = sequence(certificate.issuer.public_bytes(), integer(certificate.serial_number))
    signer = sequence(integer(1), issuer, sha256, sequence(oid("1.2.840.113549.1.1.1"), b"\x05\0"), octets(raw))
    data = sequence(
        integer(1),
        tlv(0x31, sha256),
        sequence(oid("1.3.6.1.4.1.311.2.1.4"), tlv(0xA0, sequence(content))),
        tlv(0xA0, certificate.public_bytes(Encoding.DER)),
        tlv(0x31, signer),
    )
    pkcs7 = sequence(oid("1.2.840.113549.1.7.2"), tlv(0xA0, data))
    return with_signature(program_, struct.pack("<LHH", 8 + len(pkcs7), 0x0200, 0x0002) + pkcs7)


def run(folder: Path, store: Path, program_: bytes) -> Told:
    """Boot OVMF with a store and a program as the only thing to start. The store is written to, as firmware does."""
    boot = folder / "esp/EFI/BOOT"
    boot.mkdir(parents=True)
    (boot / "BOOTX64.EFI").write_bytes(program_)
    (folder / "tpm").mkdir()
    socket, serial = folder / "tpm.sock", folder / "serial.log"
    # fmt: off
    swtpm = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder / 'tpm'}", "--ctrl", f"type=unixio,path={socket}",
             "--flags", "startup-clear", "--terminate"]
    qemu = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-machine", "q35,smm=on", "-accel", "tcg",
            "-cpu", "max", "-m", "256", "-display", "none", "-no-reboot", "-nic", "none",
            "-global", "driver=cfi.pflash01,property=secure,value=on",
            "-drive", f"if=pflash,format=raw,unit=0,readonly=on,file={CODE}",
            "-drive", f"if=pflash,format=raw,unit=1,file={store}",
            "-drive", f"if=none,id=esp,format=raw,file=fat:rw:{folder / 'esp'}",
            "-device", "virtio-blk-pci,drive=esp,bootindex=0",
            "-chardev", f"socket,id=tpm,path={socket}", "-tpmdev", "emulator,id=tpm0,chardev=tpm",
            "-device", "tpm-tis,tpmdev=tpm0", "-serial", f"file:{serial}"]
    # fmt: on
    with subprocess.Popen(swtpm) as tpm:
        try:
            until = time.monotonic() + 10
            while not socket.exists() and time.monotonic() < until:
                time.sleep(0.05)
            _boot(qemu, serial)
        finally:
            tpm.terminate()
    return read(serial.read_text("ascii", "replace"))


def _boot(qemu: Sequence[str], serial: Path) -> None:
    """Run until the program switches off, or the firmware has nothing to start and waits for a person."""
    until = time.monotonic() + LIMIT_S
    with subprocess.Popen(qemu) as machine:
        try:
            while machine.poll() is None and _NOTHING not in (serial.read_bytes() if serial.exists() else b""):
                if time.monotonic() > until:
                    raise TimeoutError(f"the firmware said nothing in {LIMIT_S} s: {serial.read_bytes()[-400:]!r}")
                time.sleep(0.1)
        finally:
            machine.terminate()


def read(lines: str) -> Told:
    """What the serial line told."""
    told = Told(refused=_REFUSED in lines)
    for line in lines.partition("probe begins")[2].splitlines():
        match line.split(" "):
            case ["pcr7", _, value]:
                told.pcr7.append(bytes.fromhex(value))
            case ["log", value]:
                told.log = bytes.fromhex(value)
            case ["case", _, status]:
                told.statuses.append(int(status, 16))
            case ["variable", name, vendor, attributes, value]:
                key = (bytes.fromhex(name).decode("utf-16-le").rstrip("\0"), UUID(bytes_le=bytes.fromhex(vendor)))
                told.variables[key] = (int(attributes, 16), bytes.fromhex(value))
            case ["probe", "ends"]:
                told.ended = True
    return told
