# SPDX-License-Identifier: Apache-2.0
"""Secure Boot keys and signed updates: made, rotated, revoked; and that an update altered anywhere is noticed."""

from __future__ import annotations

import logging
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from virt.firmware.efi.efivar import EfiVar  # type: ignore[import-untyped]
from virt.firmware.varstore.edk2 import Edk2VarStore  # type: ignore[import-untyped]

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware import efi, signed
from appliance.firmware.changes import revoke, revoked, rotate
from appliance.firmware.efi import KeyVariable
from appliance.firmware.keys import ROLES, SecureBootKeys
from appliance.firmware.signed import SignedUpdate, parse_update
from appliance.firmware.varstore import make_vars
from appliance.keys.files import write_atomically
from tests.mutants.updates import mutants, new_update

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)
WORD = "twelve letters and more"
MUTANTS = 200
"""At least so many distinct ones."""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SecureBootKeys:
    """A first generation; tests that change keys get new generations in the same folder."""
    return SecureBootKeys.create(tmp_path_factory.mktemp("firmware") / "keys", name="Works 7", now=NOW)


def store(path: Path) -> Path:
    """An empty variable store in OVMF's layout (edk2: firmware volume, authenticated variables)."""
    import struct

    from virt.firmware.efi import guids  # type: ignore[import-untyped]

    whole, head = 0x84000, 72
    volume = bytes(16) + guids.parse_str(guids.NvData).bytes_le
    volume += struct.pack("<QLLHHHBBLLLL", whole, 0x4856465F, 0x4FEFF, head, 0, 0, 0, 2, whole // 4096, 4096, 0, 0)
    variables = guids.parse_str(guids.AuthVars).bytes_le + struct.pack("<LBBHL", 0x40000 - head, 0x5A, 0xFE, 0, 0)
    path.write_bytes((volume + variables).ljust(whole, b"\xff"))
    return path


# -- the folder --------------------------------------------------------------------------------------------------------


def test_a_new_folder_is_whole_and_private(keys: SecureBootKeys) -> None:
    """Three keys that only their owner reads, certificates that say whose they are, updates in the order to apply."""
    assert SecureBootKeys.load(keys.root) == keys
    assert {path.stat().st_mode & 0o777 for path in keys.folder.glob("*.key")} == {0o600}
    assert keys.folder.stat().st_mode & 0o077 == 0
    names = [keys.pair(role).certificate().subject.rfc4514_string() for role in ROLES]
    assert names == [
        "CN=Works 7 Secure Boot platform key 1",
        "CN=Works 7 Secure Boot key exchange key 1",
        "CN=Works 7 Secure Boot image signing key 1",
    ]
    assert [name for name, _ in keys.updates()] == ["1-db.auth", "2-dbx.auth", "3-KEK.auth", "4-PK.auth"]
    for role in ROLES:
        assert keys.pair(role).open().key_size == 2048
    assert sorted(keys.public_files()) == ["KEK.esl", "PK.esl", "db.esl", "dbx.esl"]


def test_keys_are_never_overwritten(keys: SecureBootKeys, tmp_path: Path) -> None:
    """Not by a second create, and not what somebody else has in the folder."""
    before = {path: path.read_bytes() for path in keys.root.rglob("*") if path.is_file()}
    (tmp_path / "note").write_text("mine", "utf-8")
    for folder in (keys.root, tmp_path, tmp_path / "note"):
        with pytest.raises(RefusedError, match="never overwritten"):
            SecureBootKeys.create(folder)
    assert {path: path.read_bytes() for path in keys.root.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["", "x" * 33, "two\nlines"])
def test_a_name_fits_a_certificate(tmp_path: Path, name: str) -> None:
    """It ends up in a common name of 64 characters."""
    with pytest.raises(RefusedError, match="32 printable"):
        SecureBootKeys.create(tmp_path / "keys", name=name)


def test_a_passphrase_encrypts_every_private_key(tmp_path: Path) -> None:
    """They open with it alone, and a rotated key is encrypted with it too."""
    keys = rotate(SecureBootKeys.create(tmp_path / "keys", passphrase=WORD), KeyVariable.DB, passphrase=WORD)
    for role in ROLES:
        pair = keys.pair(role)
        assert pair.key.read_bytes().startswith(b"-----BEGIN ENCRYPTED ")
        assert pair.open(WORD).public_key() == pair.certificate().public_key()
        for wrong in (None, "another passphrase"):
            with pytest.raises(RefusedError) as caught:
                pair.open(wrong)
            assert caught.value.reason is Reason.FIRMWARE_KEYS
    with pytest.raises(RefusedError):
        rotate(keys, KeyVariable.KEK, passphrase="another passphrase")
    assert SecureBootKeys.load(tmp_path / "keys") == keys


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    """Each file is missed or found wrong; never are keys of two generations mixed."""
    keys = SecureBootKeys.create(tmp_path / "keys")
    other = SecureBootKeys.create(tmp_path / "other")
    for name in ("owner", "PK.crt", "KEK.crt", "db.crt", "PK.esl", "KEK.esl", "db.esl", "dbx.esl"):
        path = keys.folder / name
        good = path.read_bytes()
        swapped = (other.folder / name).read_bytes()
        for bad in (b"", good[: len(good) // 2], *([] if name in {"owner", "dbx.esl"} else [swapped])):
            if bad == b"" and name == "dbx.esl":
                continue  # an empty dbx is one
            path.write_bytes(bad)
            with pytest.raises(RefusedError):
                SecureBootKeys.load(keys.root)
        path.unlink()
        with pytest.raises(RefusedError):
            SecureBootKeys.load(keys.root)
        path.write_bytes(good)
    assert SecureBootKeys.load(keys.root) == keys
    keys.db.key.write_bytes(other.db.key.read_bytes())
    with pytest.raises(RefusedError, match=r"not the key of db\.crt"):
        keys.db.open()


def test_a_crash_before_the_end_leaves_the_generation_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed at any write of a rotation, the folder has the old keys; the next rotation works."""
    keys = SecureBootKeys.create(tmp_path / "keys")
    left = 0

    def killed(path: Path, data: bytes, mode: int) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        write_atomically(path, data, mode)

    monkeypatch.setattr("appliance.firmware.keys.write_atomically", killed)
    count = 0
    for number in range(1, 30):
        left = number
        try:
            rotate(keys, KeyVariable.DB)
        except KeyboardInterrupt:
            count += 1
            assert SecureBootKeys.load(keys.root) == keys
        else:
            break
    assert count == 13  # owner, 3 keys, 3 certificates, 4 contents, an update, `current`
    assert SecureBootKeys.load(keys.root).generation == 2


# -- changes -----------------------------------------------------------------------------------------------------------


def applied(content: bytes, update: SignedUpdate) -> bytes:
    """What a variable holds after an update."""
    return efi.appended(content, update.content) if update.append else update.content


@pytest.mark.parametrize(("role", "signer"), [("db", "KEK"), ("KEK", "PK"), ("PK", "PK")])
def test_rotation(tmp_path: Path, role: str, signer: str) -> None:
    """The update is signed by the key above, newer than all before, and leads to what the folder says."""
    before = SecureBootKeys.create(tmp_path / "keys", now=NOW)
    variable = KeyVariable(role)
    after = rotate(before, variable, now=NOW - timedelta(days=400))  # the clock was set back
    assert SecureBootKeys.load(before.root) == after
    [(name, update)] = after.updates()
    assert name == ("1-db-append.auth" if role == "db" else f"1-{role}.auth")
    assert update.verified_by([before.pair(KeyVariable(signer)).certificate()])
    assert not update.verified_by([before.db.certificate(), after.pair(variable).certificate()])
    assert update.when > before.when
    assert applied(before.contents[variable], update) == after.contents[variable]
    held = [entry.data for one in efi.parse_lists(after.contents[variable]) for entry in one.signatures]
    new, old = (keys.pair(variable).certificate().public_bytes(Encoding.DER) for keys in (after, before))
    assert held == ([old, new] if role == "db" else [new])
    assert {other: after.contents[other] for other in KeyVariable if other != role} == {
        other: before.contents[other] for other in KeyVariable if other != role
    }
    assert "key 2" in after.pair(variable).certificate().subject.rfc4514_string()
    assert before.pair(variable).open().key_size == 2048  # the old one is still there


def test_after_a_rotation_the_new_key_signs(tmp_path: Path) -> None:
    """A KEK that was replaced signs nothing any more."""
    old = SecureBootKeys.create(tmp_path / "keys")
    new = rotate(rotate(old, KeyVariable.KEK), KeyVariable.DB)
    [(_, update)] = new.updates()
    assert update.verified_by([new.kek.certificate()])
    assert not update.verified_by([old.kek.certificate()])


def test_revocation(tmp_path: Path) -> None:
    """A certificate and a program's digest get into dbx; what is there already is not added again."""
    first = SecureBootKeys.create(tmp_path / "keys")
    second = rotate(first, KeyVariable.DB)
    old = first.db.certificate()
    third = revoke(second, certificates=[old], digests=[b"\1" * 32, b"\1" * 32])
    [(name, update)] = third.updates()
    assert name == "1-dbx-append.auth"
    assert update.verified_by([first.kek.certificate()])
    assert revoked(third)[1:] == [old.public_bytes(Encoding.DER), b"\1" * 32]
    assert applied(second.contents[KeyVariable.DBX], update) == third.contents[KeyVariable.DBX]
    fourth = revoke(third, certificates=[old], digests=[b"\2" * 32])
    assert revoked(fourth)[3:] == [b"\2" * 32]
    with pytest.raises(RefusedError, match="revoked already"):
        revoke(fourth)
    with pytest.raises(RefusedError, match="revoked already"):
        revoke(fourth, certificates=[old], digests=[b"\2" * 32])


def test_a_key_in_use_is_not_revoked(keys: SecureBootKeys) -> None:
    """It would stop every box."""
    for role in ROLES:
        with pytest.raises(RefusedError, match=f"rotate {role} first"):
            revoke(keys, certificates=[keys.pair(role).certificate()])
    with pytest.raises(RefusedError, match="32 bytes"):
        revoke(keys, digests=[b"short"])
    with pytest.raises(RefusedError, match="has no key"):
        rotate(keys, KeyVariable.DBX)
    assert SecureBootKeys.load(keys.root) == keys


# -- signed updates ----------------------------------------------------------------------------------------------------


def test_mutants_of_an_update_are_refused(tmp_path: Path) -> None:
    """No mutant verifies, and the original does, in the same run."""
    keys = SecureBootKeys.create(tmp_path / "keys", now=NOW)
    original = new_update(keys, b"\7" * 32)
    signers = [keys.kek.certificate(), keys.pk.certificate()]
    made = mutants(keys, original)
    assert len({(one.variable, one.append, one.data) for one in made}) == len(made) >= MUTANTS
    assert len(Counter(one.kind for one in made)) == 9
    accepted, reasons = [], set()
    for one in made:
        try:
            if parse_update(one.data, one.variable, append=one.append).verified_by(signers):
                accepted.append(f"{one.kind}: {one.name}")
        except RefusedError as error:
            reasons.add(error.reason)
    assert accepted == []
    assert reasons == {Reason.FIRMWARE_KEYS}
    read = parse_update(original.render(), original.variable, append=original.append)
    assert read == original
    assert read.verified_by(signers)


def test_others_read_what_is_written(keys: SecureBootKeys, tmp_path: Path, find_tool: Callable[[str], str]) -> None:
    """virt-firmware reads time and content; OpenSSL takes the signature, and none over another statement."""
    openssl = find_tool("openssl")
    for name, update in keys.updates():
        variable = EfiVar(str(update.variable), authdata=update.render())
        assert (variable.data, variable.time) == (update.content, update.when), name
        assert len(variable.sigdb) == 1
        signer = keys.kek if update.variable in {KeyVariable.DB, KeyVariable.DBX} else keys.pk
        (tmp_path / "p7").write_bytes(signed.content_info(update.signature))
        check = [openssl, "smime", "-verify", "-inform", "DER", "-in", "p7", "-binary", "-content", "said"]
        check += [
            "-certfile",
            str(signer.crt),
            "-CAfile",
            str(signer.crt),
            "-purpose",
            "any",
            "-no_check_time",
            "-out",
            "out",
        ]
        for said, good in ((update, True), (replace(update, content=update.content + b"\0"), False)):
            (tmp_path / "said").write_bytes(signed.statement(said))
            done = subprocess.run(check, cwd=tmp_path, capture_output=True, check=False)
            assert (done.returncode == 0) is good, done.stderr


def test_what_linux_is_given(keys: SecureBootKeys) -> None:
    """The file of a variable takes attributes first, in one write: 0x27, and 0x67 to append."""
    [_, (_, dbx), *_] = keys.updates()
    assert dbx.efivarfs() == b"\x27\0\0\0" + dbx.render()
    assert new_update(keys, b"\3" * 32).efivarfs()[:4] == b"\x67\0\0\0"


def test_the_digest_algorithm_is_where_old_firmware_looks(keys: SecureBootKeys) -> None:
    """edk2 before 2023 wants SHA-256's identifier at byte 13 of the signature, so there is no wrapping."""
    for _, update in keys.updates():
        assert update.signature[13:22] == bytes.fromhex("608648016503040201")


# -- lists and stores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:16] + b"\0\0\0\0" + data[20:],
        lambda data: data[:16] + b"\xff\xff\0\0" + data[20:],
        lambda data: data[:20] + b"\xff\xff\0\0" + data[24:],
        lambda data: data[:24] + b"\0\0\0\0" + data[28:],
        lambda data: data[:24] + b"\x10\0\0\0" + data[28:],
        lambda data: data[:24] + b"\x31\0\0\0" + data[28:],
    ],
)
def test_damaged_lists_are_refused(keys: SecureBootKeys, damage: Callable[[bytes], bytes]) -> None:
    """Sizes of zero, beyond the end, or that do not divide; none loops or reads on."""
    good = keys.contents[KeyVariable.DBX]
    assert efi.render_lists(efi.parse_lists(good)) == good
    with pytest.raises(RefusedError):
        efi.parse_lists(damage(good))


def test_a_store_holds_the_keys(keys: SecureBootKeys, tmp_path: Path) -> None:
    """Exactly these contents and times, and Secure Boot on; or off, with the keys in place."""
    template = store(tmp_path / "template.fd")
    empty = template.read_bytes()
    for on in (True, False):
        make_vars(template, keys, tmp_path / "vars.fd", secure_boot=on)
        held = Edk2VarStore(tmp_path / "vars.fd").get_varlist()
        for variable in KeyVariable:
            found = held[str(variable)]
            assert (found.data, found.attr, found.time) == (keys.contents[variable], efi.KEY_ATTRIBUTES, keys.when)
            assert found.guid == variable.vendor
        assert held["SecureBootEnable"].data == bytes([on])
    assert template.read_bytes() == empty


def test_what_is_no_store_is_refused(keys: SecureBootKeys, tmp_path: Path) -> None:
    """With a reason, not by ending the process as the library does."""
    (tmp_path / "zeros.fd").write_bytes(bytes(65536))
    level = logging.root.level
    for template in (tmp_path / "zeros.fd", tmp_path / "missing.fd"):
        with pytest.raises(RefusedError, match="no variable store"):
            make_vars(template, keys, tmp_path / "vars.fd")
    assert not (tmp_path / "vars.fd").exists()
    assert logging.root.level == level
