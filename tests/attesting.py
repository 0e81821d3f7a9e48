# SPDX-License-Identifier: Apache-2.0
"""A simulated TPM and simulated firmware, for tests of the verifier: they state whatever a test wants stated.

Real quotes come from swtpm in ``tests/service/test_attestation.py``; here the attestation key is in a test's hands, so
that a statement can be wrong and well signed at the same time.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.names import ZoneId
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.firmware_log import NO_ACTION, VARIABLE_DRIVER_CONFIG
from appliance.keys.attestation.measurements import Image, Measurements
from appliance.keys.attestation.quote import one_form, qualified_name
from appliance.keys.keeper.port import QUOTED_PCRS
from appliance.keys.tpm.policy import counter_public
from appliance.keys.tpm.public import ATTESTATION, SHA256, Attestation, ecdsa_public_of, name_of, sized

PLANT = ZoneId("plant-a")
NONCE = bytes(range(32))
IMAGE_KEY = rsa.generate_private_key(65537, 2048)


def extended(value: bytes, digest: bytes) -> bytes:
    """What an extension makes of a PCR."""
    return hashlib.sha256(value + digest).digest()


@dataclass
class SimulatedTpm:
    """**A simulation**: an attestation key in software, PCRs as a dictionary, a clock that a test sets."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    pcrs: dict[int, bytes] = field(default_factory=lambda: dict.fromkeys(QUOTED_PCRS, bytes(32)))
    clock_ms: int = 1_000_000
    resets: int = 7
    restarts: int = 2
    firmware: int = 0x2020_0131_0000
    counter: int = 1

    @property
    def ak_public(self) -> bytes:
        """TPMT_PUBLIC of the attestation key."""
        return ecdsa_public_of(self.key.public_key(), ATTESTATION)

    def extend(self, pcr: int, digest: bytes) -> None:
        """Extend a PCR."""
        self.pcrs[pcr] = extended(self.pcrs[pcr], digest)

    def statement(
        self,
        nonce: bytes = NONCE,
        *,
        magic: int = 0xFF544347,
        kind: int = 0x8018,
        signer: bytes | None = None,
        safe: int = 1,
        selected: Sequence[int] = QUOTED_PCRS,
        algorithm: int = SHA256,
        banks: int = 1,
        digest: bytes | None = None,
        tail: bytes = b"",
    ) -> bytes:
        """TPMS_ATTEST of a quote, with anything in it wrong that a test wants wrong."""
        name = qualified_name(name_of(self.ak_public)) if signer is None else signer
        clock = struct.pack(">QIIB", self.clock_ms, self.resets, self.restarts, safe)
        bitmap = sum(1 << pcr for pcr in selected).to_bytes(3, "little")
        selection = struct.pack(">IHB", banks, algorithm, len(bitmap)) + bitmap
        values = hashlib.sha256(b"".join(self.pcrs[pcr] for pcr in sorted(selected) if pcr in self.pcrs)).digest()
        head = struct.pack(">IH", magic, kind) + sized(name) + sized(nonce) + clock
        return head + struct.pack(">Q", self.firmware) + selection + sized(values if digest is None else digest) + tail

    def counter_statement(self, nonce: bytes, *, name: bytes | None = None, value: int | None = None) -> bytes:
        """TPMS_ATTEST of the quarantine counter."""
        content = (self.counter if value is None else value).to_bytes(8)
        return self._head(nonce, 0x8014) + sized(name or counter_public().written().name) + b"\0\0" + sized(content)

    def _head(self, nonce: bytes, kind: int) -> bytes:
        clock = struct.pack(">QIIBQ", self.clock_ms, self.resets, self.restarts, 1, self.firmware)
        return struct.pack(">IH", 0xFF544347, kind) + sized(b"\0\x0b" + bytes(32)) + sized(nonce) + clock

    def sign(self, statement: bytes) -> Attestation:
        """Sign a statement, in the one form."""
        return Attestation(statement, one_form(self.key.sign(statement, ec.ECDSA(hashes.SHA256()))))

    def quote(self, nonce: bytes = NONCE) -> Attestation:
        """A quote as it should be."""
        return self.sign(self.statement(nonce))

    def evidence(self, nonce: bytes = NONCE, *, firmware_log: bytes = b"", runtime_log: bytes = b"") -> Evidence:
        """Evidence as it should be."""
        return Evidence(PLANT, self.quote(nonce), dict(self.pcrs), firmware_log, runtime_log)

    def enrolled(self) -> EnrolledAttestation:
        """What a hub keeps, if the box is enrolled as it is now."""
        return EnrolledAttestation(self.ak_public, dict(self.pcrs), IMAGE_KEY.public_key(), self.resets)


class SimulatedFirmware:
    """**A simulation** of firmware that writes a crypto-agile event log and extends the PCRs of a simulated TPM.

    :param algorithms: the banks, with their digest sizes.
    """

    def __init__(
        self, tpm: SimulatedTpm, *, locality: int | None = None, algorithms: Mapping[int, str] | None = None
    ) -> None:
        self._tpm = tpm
        self._algorithms = algorithms or {0x0004: "sha1", 0x000B: "sha256"}
        self.log = self._header()
        if locality is not None:
            tpm.pcrs[0] = bytes(31) + bytes([locality])
            self.log += self._event(0, NO_ACTION, b"", b"StartupLocality\0" + bytes([locality]))

    def measure(self, pcr: int, kind: int, data: bytes) -> None:
        """Extend a PCR with the digest of data, and write that down."""
        self.log += self._event(pcr, kind, data, data)
        self._tpm.extend(pcr, hashlib.sha256(data).digest())

    def _event(self, pcr: int, kind: int, measured: bytes, data: bytes) -> bytes:
        digests = b"".join(
            struct.pack("<H", algorithm) + (hashlib.new(name, measured).digest() if kind != NO_ACTION else bytes(size))
            for algorithm, name in self._algorithms.items()
            for size in (hashlib.new(name).digest_size,)
        )
        head = struct.pack("<III", pcr, kind, len(self._algorithms))
        return head + digests + struct.pack("<I", len(data)) + data

    def _header(self) -> bytes:
        sizes = b"".join(struct.pack("<HH", a, hashlib.new(n).digest_size) for a, n in self._algorithms.items())
        content = b"Spec ID Event03\0" + struct.pack("<IBBBB", 0, 0, 2, 0, 2)
        content += struct.pack("<I", len(self._algorithms)) + sizes + b"\0"
        return struct.pack("<II", 0, NO_ACTION) + bytes(20) + struct.pack("<I", len(content)) + content


def secure_boot_variable(value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA of the variable ``SecureBoot``."""
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    name = "SecureBoot".encode("utf-16-le")
    return guid + struct.pack("<QQ", len(name) // 2, len(value)) + name + value


def boot(tpm: SimulatedTpm, *, secure_boot: bytes = b"\1", image: bytes = b"image 1", locality: int = 3) -> bytes:
    """**A simulated boot**: firmware, Secure Boot, loader, kernel image; the log of it."""
    firmware = SimulatedFirmware(tpm, locality=locality)
    firmware.measure(0, 0x8, b"firmware 1.0")
    firmware.measure(7, VARIABLE_DRIVER_CONFIG, secure_boot_variable(secure_boot))
    for pcr in range(8):
        firmware.measure(pcr, 0x4, bytes(4))
    firmware.measure(4, 0x80000003, image)
    firmware.measure(9, 0x6, b"initrd of " + image)
    firmware.measure(11, 0xD, b"sections of " + image)
    return firmware.log


def phases(tpm: SimulatedTpm, *words: str, pcr: int = 11) -> bytes:
    """What systemd writes while a system starts, and extends a PCR with."""
    log = b""
    for word in words:
        digest = hashlib.sha256(word.encode()).digest()
        tpm.extend(pcr, digest)
        record = {
            "pcr": pcr,
            "digests": [{"hashAlg": "sha256", "digest": digest.hex()}],
            "content_type": "systemd",
            "content": {"eventType": "phase", "string": word, "bootId": "0" * 32},
        }
        log += b"\x1e" + json.dumps(record).encode() + b"\n"
    return log


def measurements(tpm: SimulatedTpm, *, number: int = 3, minimum: int = 1, serial: int = 1) -> Measurements:
    """What a builder publishes whose image leads to these PCRs."""
    image = Image(f"1.{number}.0", number, {pcr: (tpm.pcrs[pcr],) for pcr in (4, 9, 11)})
    return Measurements(serial, minimum, (image,)).sign(IMAGE_KEY)
