# SPDX-License-Identifier: Apache-2.0
"""Event logs, of simulated firmware and in systemd's format: replayed, and hostile ones refused at bounded cost."""

from __future__ import annotations

import hashlib
import json
import random
import struct
import time
from collections.abc import Iterator

import pytest

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.firmware_log import EVENTS, FIRMWARE_LOG_BYTES, parse_firmware_log
from appliance.keys.attestation.runtime_log import (
    RECORDS,
    RUNTIME_LOG_BYTES,
    RuntimeEvent,
    parse_runtime_log,
    replay_runtime_log,
)
from tests.attesting import SimulatedFirmware, SimulatedTpm, boot, phases, secure_boot_variable


@pytest.mark.parametrize("locality", [0, 3, 4])
@pytest.mark.parametrize(
    "algorithms",
    [
        {0x000B: "sha256"},
        {0x0004: "sha1", 0x000B: "sha256"},
        {0x000B: "sha256", 0x000C: "sha384", 0x000D: "sha512", 0x0004: "sha1"},
    ],
)
def test_a_log_leads_to_the_pcrs(locality: int, algorithms: dict[int, str]) -> None:
    """Whatever other banks there are, and wherever the TPM was started from."""
    tpm = SimulatedTpm()
    firmware = SimulatedFirmware(tpm, locality=locality, algorithms=algorithms)
    for number in range(40):
        firmware.measure(number % 8, 0x80000000 + number, random.Random(number).randbytes(number * 3))
    log = parse_firmware_log(firmware.log)
    assert log.locality == locality
    replayed = log.replay()
    assert {pcr: replayed[pcr] for pcr in range(8)} == {pcr: tpm.pcrs[pcr] for pcr in range(8)}


def test_both_logs_lead_to_the_pcrs() -> None:
    """The system goes on where the firmware ended."""
    tpm = SimulatedTpm()
    firmware = parse_firmware_log(boot(tpm))
    runtime = parse_runtime_log(phases(tpm, "enter-initrd", "leave-initrd", "sysinit", "ready"))
    assert [event.what for event in runtime] == [
        f"phase: {word}" for word in ("enter-initrd", "leave-initrd", "sysinit", "ready")
    ]
    replayed = replay_runtime_log(runtime, firmware.replay())
    assert {pcr: replayed.get(pcr, bytes(32)) for pcr in tpm.pcrs} == tpm.pcrs


@pytest.mark.parametrize(("value", "on"), [(b"\1", True), (b"\0", False), (b"", False)])
def test_secure_boot_is_read_from_what_was_measured(value: bytes, on: bool) -> None:
    """A variable whose bytes are not those that were measured says nothing."""
    log = boot(SimulatedTpm(), secure_boot=value)
    assert parse_firmware_log(log).secure_boot() is on
    at = log.index("SecureBoot".encode("utf-16-le")) + 20
    if value:
        forged = log[:at] + bytes([log[at] ^ 1]) + log[at + 1 :]
        assert parse_firmware_log(forged).secure_boot() is None
    assert parse_firmware_log(SimulatedFirmware(SimulatedTpm()).log).secure_boot() is None


LOCALITY = b"StartupLocality\0"


@pytest.mark.parametrize(
    ("pcr", "kind", "data", "locality"),
    [
        (0, 3, LOCALITY + b"\3", 3),
        (1, 3, LOCALITY + b"\3", 0),
        (0, 4, LOCALITY + b"\3", 0),
        (0, 3, b"StartupLocalitx\0\3", 0),
        (0, 3, LOCALITY + b"\1", None),
        (0, 3, LOCALITY + b"\5", None),
        (0, 3, LOCALITY, None),
        (0, 3, LOCALITY + b"\3\0", None),
    ],
)
def test_a_startup_locality_is_one_or_none(pcr: int, kind: int, data: bytes, locality: int | None) -> None:
    """PCR 0 begins with it; anything that only looks like it begins nothing, or spoils the log."""
    head = firmware_header(1, struct.pack("<HH", 0xB, 32))
    log = head + struct.pack("<IIIH", pcr, kind, 1, 0xB) + bytes(32) + struct.pack("<I", len(data)) + data
    if locality is None:
        with pytest.raises(DeniedError, match="locality"):
            parse_firmware_log(log)
    else:
        assert parse_firmware_log(log).locality == locality


@pytest.mark.parametrize(("pcr", "kind"), [(1, 0x80000001), (7, 0x80000002), (7, 0x800000E0)])
def test_only_what_secure_boot_itself_measured_counts(pcr: int, kind: int) -> None:
    """Anybody may extend another PCR, or measure the same bytes as something else."""
    firmware = SimulatedFirmware(SimulatedTpm())
    firmware.measure(pcr, kind, secure_boot_variable(b"\1"))
    assert parse_firmware_log(firmware.log).secure_boot() is None
    firmware.measure(7, 0x80000001, secure_boot_variable(b"\0"))
    assert parse_firmware_log(firmware.log).secure_boot() is False


def firmware_mutants(log: bytes, rng: random.Random) -> Iterator[bytes]:
    """Bits, cuts, additions, exchanged and doubled parts."""
    for at in rng.sample(range(len(log) * 8), 1200):
        yield log[: at // 8] + bytes([log[at // 8] ^ 1 << at % 8]) + log[at // 8 + 1 :]
    for size in range(0, len(log), 9):
        yield log[:size]
    for size in (1, 4, 31, 400):
        yield log + rng.randbytes(size)
    for _ in range(100):
        start, end = sorted(rng.sample(range(len(log)), 2))
        yield log[:start] + log[end:]
        yield log[:end] + log[start:]


def test_no_mutant_of_a_firmware_log_leads_there_but_by_what_is_not_measured() -> None:
    """Each is refused, or leads to other PCRs, or differs only in words and other banks. The original leads there."""
    tpm = SimulatedTpm()
    log = boot(tpm)
    good = parse_firmware_log(log)
    measured = [(event.pcr, event.digest) for event in good.events]
    refused = differs = unmeasured = 0
    mutants = {mutant for mutant in firmware_mutants(log, random.Random(11)) if mutant != log}
    for mutant in mutants:
        try:
            found = parse_firmware_log(mutant)
        except DeniedError as error:
            refused += error.reason is Reason.BAD_EVIDENCE
            continue
        if found.replay() != good.replay():
            differs += 1
        else:
            unmeasured += 1
            assert len(found.events) == len(good.events)
            assert [(event.pcr, event.digest) for event in found.events if event.kind != 3] == [
                one for one, event in zip(measured, good.events, strict=True) if event.kind != 3
            ]
    assert len(mutants) >= 1000
    assert refused > 200
    assert differs > 200
    assert refused + differs + unmeasured == len(mutants)
    assert {pcr: good.replay()[pcr] for pcr in range(8)} == {pcr: tpm.pcrs[pcr] for pcr in range(8)}


def firmware_header(count: int, sizes: bytes, vendor: bytes = b"\0") -> bytes:
    """The first event with these algorithms."""
    content = b"Spec ID Event03\0" + bytes(8) + struct.pack("<I", count) + sizes + vendor
    return struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", len(content)) + content


HOSTILE_HEADERS = {
    "empty": b"",
    "old form": struct.pack("<II", 0, 3) + bytes(20) + struct.pack("<I", 16) + b"Spec ID Event02\0",
    "an event that is measured": b"\0\0\0\0\4" + firmware_header(1, struct.pack("<HH", 0xB, 32))[5:],
    "an event of PCR 1": b"\1" + firmware_header(1, struct.pack("<HH", 0xB, 32))[1:],
    "no algorithm": firmware_header(0, b""),
    "four billion algorithms": firmware_header(2**32 - 1, struct.pack("<HH", 0xB, 32)),
    "no SHA-256": firmware_header(1, struct.pack("<HH", 0x4, 20)),
    "SHA-256 of 20 bytes": firmware_header(1, struct.pack("<HH", 0xB, 20)),
    "an algorithm twice": firmware_header(2, struct.pack("<HHHH", 0xB, 32, 0xB, 32)),
    "unknown algorithm": firmware_header(2, struct.pack("<HHHH", 0xB, 32, 0x99, 0)),
    "vendor data that is not there": firmware_header(1, struct.pack("<HH", 0xB, 32), b"\xff"),
    "more than it says": firmware_header(1, struct.pack("<HH", 0xB, 32), b"\0x"),
}


@pytest.mark.parametrize("log", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_a_header_that_is_none_is_refused(log: bytes) -> None:
    """Before any event is read."""
    with pytest.raises(DeniedError, match="bad_evidence"):
        parse_firmware_log(log)


@pytest.mark.parametrize(("pcr", "kind", "good"), [(2**32 - 1, 3, True), (2**32 - 1, 4, False), (24, 3, False)])
def test_an_event_of_no_pcr_extends_nothing(pcr: int, kind: int, good: bool) -> None:
    """Some firmware writes such events; anything else that is no PCR is refused."""
    head = firmware_header(1, struct.pack("<HH", 0xB, 32))
    log = head + struct.pack("<III", pcr, kind, 1) + struct.pack("<H", 0xB) + bytes(36)
    if good:
        assert parse_firmware_log(log).replay() == {0: bytes(32)}
    else:
        with pytest.raises(DeniedError, match="bad_evidence"):
            parse_firmware_log(log)


def test_hostile_firmware_logs_cost_little() -> None:
    """The longest log there may be takes well under a second, however many events it claims to have."""
    head = firmware_header(1, struct.pack("<HH", 0xB, 32))
    event = struct.pack("<III", 7, 1, 1) + struct.pack("<H", 0xB) + bytes(32)
    many = head + (event + bytes(4)) * ((FIRMWARE_LOG_BYTES - len(head)) // 50)
    rest = FIRMWARE_LOG_BYTES - len(head) - len(event) - 4
    long = head + event + struct.pack("<I", rest) + bytes(rest)
    longer = head + event + struct.pack("<I", rest + 1) + bytes(rest + 1)
    claims = head + event + struct.pack("<I", 2**32 - 1) + bytes(1000)
    fits = head + (event + bytes(4)) * EVENTS
    started = time.perf_counter()
    for log in (many, claims, longer, bytes(FIRMWARE_LOG_BYTES), b"\xff" * FIRMWARE_LOG_BYTES):
        with pytest.raises(DeniedError):
            parse_firmware_log(log)
    assert len(parse_firmware_log(long).events) == 1
    assert len(parse_firmware_log(fits).replay()) == 2
    assert time.perf_counter() - started < 2


# -- the running system's log ------------------------------------------------------------------------------------------


def record(**changes: object) -> bytes:
    """One record, with some of its fields changed; ``None`` takes one out."""
    values: dict[str, object] = {
        "pcr": 11,
        "digests": [{"hashAlg": "sha256", "digest": "00" * 32}],
        "content_type": "systemd",
        "content": {"eventType": "phase", "string": "ready"},
    }
    values.update(changes)
    kept = {name: value for name, value in values.items() if value is not None}
    return b"\x1e" + json.dumps(kept).encode() + b"\n"


def test_records_of_other_kinds_are_passed_over() -> None:
    """NV indices, other banks, other writers, no words at all; what is for people cannot break a line."""
    other_bank = [{"hashAlg": "sha384", "digest": "11" * 48}]
    both = [*other_bank, {"hashAlg": "sha256", "digest": "22" * 32}]
    log = b"".join(
        (
            record(pcr=None, nv_index=25166336),
            record(nv_index=1, digests=[{"hashAlg": "sha256", "digest": "33" * 32}]),
            record(digests=other_bank),
            record(digests=both, content_type="other"),
            record(content=None),
            record(content={"string": "a\nb\x1b[2J" + "x" * 500}),
        )
    )
    events = parse_runtime_log(log)
    assert [event.digest[:1] for event in events] == [b"\x33", b"\x22", b"\0", b"\0"]
    assert [event.what for event in events[:3]] == ["phase: ready", "", ""]
    assert "\n" not in events[3].what
    assert "\x1b" not in events[3].what
    assert parse_runtime_log(b"") == ()


HOSTILE_RECORDS = {
    "no separator": record()[1:],
    "text before": b"x" + record(),
    "no JSON": b"\x1e{",
    "a list": b"\x1e[]",
    "a number": b"\x1e1",
    "deep": b"\x1e" + b"[" * 60_000,
    "deep objects": b"\x1e" + b'{"a":' * 20_000,
    "PCR 24": record(pcr=24),
    "PCR -1": record(pcr=-1),
    "PCR true": record(pcr=True),
    "PCR 7.0": record(pcr=7.0),
    "PCR as text": record(pcr="7"),
    "no PCR": record(pcr=None),
    "no digests": record(digests=None),
    "digests as text": record(digests="00"),
    "digest too short": record(digests=[{"hashAlg": "sha256", "digest": "00"}]),
    "digest in capitals": record(digests=[{"hashAlg": "sha256", "digest": "AA" * 32}]),
    "two digests": record(digests=[{"hashAlg": "sha256", "digest": "00" * 32}] * 2),
    "no text": b"\x1e\xff\xfe",
    "too many": record() * (RECORDS + 1),
    "too long": record(content={"string": "x" * RUNTIME_LOG_BYTES}),
    "a huge number": b'\x1e{"pcr":' + b"9" * 20_000 + b"}",
}


@pytest.mark.parametrize("log", HOSTILE_RECORDS.values(), ids=HOSTILE_RECORDS)
def test_a_log_that_is_none_is_refused(log: bytes) -> None:
    """As a whole: half a log explains nothing."""
    with pytest.raises(DeniedError, match="bad_evidence"):
        parse_runtime_log(log)


def test_no_mutant_of_a_system_log_leads_there() -> None:
    """Any bit, cut or exchange that touches what was measured leads elsewhere or is refused."""
    tpm = SimulatedTpm()
    log, rng = phases(tpm, "enter-initrd", "leave-initrd", "sysinit", "ready"), random.Random(2)
    good = parse_runtime_log(log)
    end = replay_runtime_log(good, {})
    mutants = {log[:at] + bytes([log[at] ^ 1 << rng.randrange(8)]) + log[at + 1 :] for at in range(len(log))}
    mutants |= {log[:size] for size in range(len(log) - 2)}
    elsewhere = 0
    for mutant in mutants:
        try:
            found = parse_runtime_log(mutant)
        except DeniedError:
            elsewhere += 1
            continue
        if replay_runtime_log(found, {}) == end:
            assert [(event.pcr, event.digest) for event in found] == [(event.pcr, event.digest) for event in good]
        else:
            elsewhere += 1
    assert len(mutants) >= 1000
    assert elsewhere >= 500
    assert end == {11: tpm.pcrs[11]}


def test_replay_is_the_tpm_s_rule() -> None:
    """New value = SHA-256(old value, digest)."""
    digest = hashlib.sha256(b"x").digest()
    assert replay_runtime_log([RuntimeEvent(15, digest)], {}) == {15: hashlib.sha256(bytes(32) + digest).digest()}
