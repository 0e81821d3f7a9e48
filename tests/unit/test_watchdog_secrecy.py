# SPDX-License-Identifier: Apache-2.0
"""No secret in what the watchdog writes down: every kind the product knows, planted in every source of evidence."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance.node.status import CrossingReport, StatusDocument, StoreStatus
from appliance.watchdog.evidence.bundle import SourceState
from appliance.watchdog.evidence.journal import Window, parse_journal
from appliance.watchdog.evidence.sources import Places, read_firewall, sources_of
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.secrecy import PATTERNS, clean, clean_foreign, found
from appliance.watchdog.suspicions import Code, ProbeName
from tests.attesting import boot, phases
from tests.boxes import SimulatedBox
from tests.evidence import SimulatedQuarantine, a_case

EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(65537, 2048)
SEED = "SU" + "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[:28] * 2
TOKEN = secrets.token_urlsafe(24) + "aB3"
JWT = ".".join(
    base64.urlsafe_b64encode(each).decode().rstrip("=") for each in (b'{"typ":"JWT"}', b'{"sub":1}' * 4, b"s" * 40)
)


def _pem(kind: PrivateFormat, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC_KEY) -> str:
    return key.private_bytes(Encoding.PEM, kind, NoEncryption()).decode()


def _der(kind: PrivateFormat, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC_KEY) -> bytes:
    return key.private_bytes(Encoding.DER, kind, NoEncryption())


SECRETS: Mapping[str, tuple[str, str]] = {
    "session key": (_pem(PrivateFormat.PKCS8), _pem(PrivateFormat.PKCS8).splitlines()[1]),
    "ec key": (_pem(PrivateFormat.TraditionalOpenSSL), _pem(PrivateFormat.TraditionalOpenSSL).splitlines()[1]),
    "rsa key": (_pem(PrivateFormat.PKCS8, RSA_KEY), _pem(PrivateFormat.PKCS8, RSA_KEY).splitlines()[2]),
    "bare pkcs8": (base64.b64encode(_der(PrivateFormat.PKCS8)).decode(),) * 2,
    "bare ec": (base64.b64encode(_der(PrivateFormat.TraditionalOpenSSL)).decode(),) * 2,
    "bare rsa": (base64.b64encode(_der(PrivateFormat.TraditionalOpenSSL, RSA_KEY)).decode(),) * 2,
    "nkey seed": (SEED, SEED),
    "creds file": (f"-----BEGIN NATS USER JWT-----\n{JWT}\n------END NATS USER JWT------\n", JWT),
    "seed file": (f"-----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n", SEED),
    "jwt": (JWT, JWT),
    "http token": (f"Authorization: Bearer {TOKEN}", TOKEN),
    "token in json": (json.dumps({"token": TOKEN}), TOKEN),
    "broker password": (f"password: {TOKEN}", TOKEN),
    "password in an address": (f"nats://control:{TOKEN}@127.0.0.1:4223", TOKEN),
    "bcrypt": ("$2a$11$" + "abcdefghijklmnopqrstu/" * 2 + "123456789", "abcdefghijklmnopqrstu/"),
    "crypt": ("$y$j9T$abcdefghijkl$mnopqrstuvwxyz", "mnopqrstuvwxyz"),
    "recovery key": ("-".join(["cbdefghi", "jklnrtuv"] * 4), "cbdefghi-jklnrtuv"),
    "passphrase": ("passphrase=correct-horse", "correct-horse"),
    "fact": ('{"envelope":{"message_id":"m"},"fact":{"object_json":"{\\"pump\\":7}"}}', "pump"),
}
"""Each kind: a text that holds it, and the part that must not be found anywhere."""


def hidden_in(data: bytes, secret: str) -> bool:
    """Whether the secret stands in a document, or in a log inside it."""
    logs = [base64.b64decode(json.loads(data)[name]) for name in ("firmware_log", "runtime_log")]
    views = [data, *logs, *(log.replace(b"\0", b"") for log in logs)]
    return any(secret.encode() in view for view in views)


def entry(text: str, **changes: str) -> bytes:
    """What journalctl prints of one entry."""
    values = {"MESSAGE": text, "PRIORITY": "6", "_SYSTEMD_UNIT": "bsfg-agent.service", "__REALTIME_TIMESTAMP": "5"}
    return json.dumps({**values, **changes}).encode() + b"\n"


def box_of(folder: Path, secret: str) -> Places:
    """The files of a box, with a secret in each."""
    places = Places(folder)
    store = StoreStatus(secret, head="ab" * 32)
    crossing = CrossingReport(secret, "push", secret, secret, step=secret, epoch=secret)
    status = StatusDocument(
        "agent", "plant-a", secret, 1, True, "normal", 1, 1, 1, secret, stores=(store,), crossings=(crossing,)
    )
    one_line = secret.replace("\n", " ")
    for path, text in (
        (places.os_release, f'ID=debian\nIMAGE_VERSION="{one_line}"\nPRETTY_NAME="{one_line}"\n'),
        (places.command_line, f"quiet roothash={'cd' * 32} x={one_line} {one_line}\n"),
        (places.boot_id, one_line),
        (places.agent, json.dumps(asdict(status))),
        *((path, secret) for path in places.files.values()),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return places


@pytest.mark.parametrize("kind", SECRETS)
async def test_no_secret_comes_through_any_source(kind: str, tmp_path: Path) -> None:
    """Planted in files, status, journal, firewall, readings, case, and both logs of the boot."""
    text, secret = SECRETS[kind]
    box = SimulatedBox()
    world = SimulatedQuarantine(box)
    world.boot_log = boot(box, image=text.encode())  # only digests of images stand in a log, and yet:
    world.boot_log += _event(box, text.encode("utf-16-le"))
    world.runtime_log = phases(box, "ready", text)
    reading = Reading(ProbeName.KERNEL, (Seen(Code.KERNEL_TAINTED, text),), text, {"a": text, "b": f"x {text}"})
    output = b"".join(
        (
            entry(text),
            entry(f"before {text} after"),
            *(entry(line) for line in text.splitlines()),
            entry(text, _TRANSPORT="kernel"),
        )
    )
    firewall = f'\tchain {text} {{\n\t\tcounter packets 1 bytes 2 accept comment "{text}"\n\t}}\n'
    sources = replace(
        sources_of(box_of(tmp_path, text), lambda: (reading,)),
        journal=_journal_of(output),
        firewall=lambda: read_firewall(lambda _: firewall),
    )
    case = a_case(detail=text)
    bundle, seal = await world.take(case, sources)
    data = bundle.render()
    assert not hidden_in(data, secret), kind
    assert not hidden_in(data, secret[:12]), kind
    assert secret.encode() not in seal.render()
    assert found(data) == frozenset()
    assert bundle.journal  # and it is not empty because of that
    assert bundle.files["/var/lib/bsfg/site/site.toml"]
    notes = {note.name: note.state for note in bundle.sources}
    assert notes["firmware_log"] is SourceState.WITHHELD
    assert SourceState.PRESENT in notes.values()


def _event(box: SimulatedBox, data: bytes) -> bytes:
    from tests.attesting import SimulatedFirmware

    firmware = SimulatedFirmware(box)
    header = len(firmware.log)
    firmware.measure(12, 0xD, data)
    return firmware.log[header:]


def _journal_of(output: bytes) -> Callable[[], Awaitable[Window]]:
    async def read() -> Window:
        return parse_journal(output)

    return read


@pytest.mark.parametrize("kind", SECRETS)
def test_without_the_filter_it_would_be_there(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the test above does find what it looks for."""
    text, secret = SECRETS[kind]
    monkeypatch.setattr("appliance.watchdog.evidence.journal.clean_foreign", lambda text: text)
    window = parse_journal(b"".join(entry(line) for line in text.splitlines()))
    assert any(secret in line.text for line in window.lines) or len(secret) > 400


def test_binary_keys_are_found() -> None:
    """In DER, as a log of the boot might hold them; certificates and digests are none."""
    for kind in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
        assert found(b"\0\0" + _der(kind) + b"\0")
        assert found(b"\0\0" + _der(kind, RSA_KEY) + b"\0")
    public = EC_KEY.public_key().public_bytes(*_SPKI)
    assert found(public + RSA_KEY.public_key().public_bytes(*_SPKI)) == frozenset()


def test_what_is_clean_stays_as_it_is() -> None:
    """Messages of our own services, paths and reason codes; and cleaning twice is cleaning once."""
    for text in (
        "the uplink is open",
        "keeper: tpm_busy: the TPM takes no command now",
        "session agent renewed until 12:05, serial 5a1f",
        "/usr/lib/bsfg/venv/bin/python -I -B -m appliance.watchdog",
        "evidence refused: bad_evidence (over another nonce)",
        "HRD-NET-009 refused IN=plant0 SRC=10.0.0.7 DST=10.0.0.1 LEN=60 PROTO=TCP SPT=40000 DPT=22",
        "attestation of plant-a: PCR 7 differs from enrolment",
    ):
        assert clean_foreign(text) == text
    for text, _ in SECRETS.values():
        assert clean(clean(text)) == clean(text)
        assert found(clean(text).encode()) == frozenset()
        reading = Reading.parse(Reading(ProbeName.KERNEL, blind=text * 3).render())
        assert Reading.parse(reading.render()) == reading
    assert set(PATTERNS) >= {kind for text, _ in SECRETS.values() for kind in found(text.encode())}


def test_lines_of_others_are_left_out_of_the_journal() -> None:
    """Only the box's own services, the kernel, and refusals that the audit reports; never a program's arguments."""
    lines = [
        entry("ours"),
        entry("the kernel's", _TRANSPORT="kernel", _SYSTEMD_UNIT=""),
        entry("IPE_ACCESS ipe_op=EXECUTE path=/tmp/x", _TRANSPORT="audit"),
        entry("EXECVE argc=2 a0=mount a1=hunter2", _TRANSPORT="audit"),
        entry("PROCTITLE proctitle=hunter2", _TRANSPORT="audit"),
        entry("hunter2", _SYSTEMD_UNIT="user@1000.service"),
        entry("hunter2", _SYSTEMD_UNIT="evil-bsfg-agent.service"),
        b'{"MESSAGE":[104,117],"_SYSTEMD_UNIT":"bsfg-agent.service","__REALTIME_TIMESTAMP":"5"}\n',
        b"not json\n",
        b"[]\n",
    ]
    window = parse_journal(b"".join(lines))
    assert [line.text for line in window.lines] == ["IPE_ACCESS ipe_op=EXECUTE path=/tmp/x", "the kernel's", "ours"]
    assert [line.unit for line in window.lines] == ["audit", "kernel", "bsfg-agent.service"]


def test_a_flood_of_the_journal_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest entries stay."""
    monkeypatch.setattr("appliance.watchdog.evidence.journal.KEPT_BYTES", 1000)
    window = parse_journal(b"".join(entry(f"entry {number}") for number in range(100)))
    assert window.cut
    assert window.lines[-1].text == "entry 0"
    assert len(window.lines) < 12
    half = parse_journal(entry("whole") + entry("torn")[:20], whole=False)
    assert [line.text for line in half.lines] == ["whole"]
    assert half.cut


_SPKI = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
