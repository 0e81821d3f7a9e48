# SPDX-License-Identifier: Apache-2.0
"""The firmware itself, OVMF under QEMU: takes our keys and signed updates, refuses others', measures as predicted.

No operating system is started: a small EFI program hands the updates over and tells what the firmware answers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.firmware.changes import revoke, rotate
from appliance.firmware.check import Status, check
from appliance.firmware.efi import KEY_ATTRIBUTES, KeyVariable
from appliance.firmware.keys import SecureBootKeys
from appliance.firmware.measurements import expected_pcr7, pcr7
from appliance.firmware.pe import authenticode
from appliance.firmware.profile import Setting, find_profile, load_profile
from appliance.firmware.sysfs import SysfsFacts
from appliance.firmware.varstore import make_vars
from appliance.keys.attestation.firmware_log import parse_firmware_log
from tests.boxtree import MadeBox
from tests.mutants.updates import HEAD, mutants, new_update
from tests.ovmf.probe import SECURITY_VIOLATION, STORE, SUCCESS, Case, Told, missing, program, run, signed

MUTANTS = 200


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SecureBootKeys:
    """The keys that the firmware is given."""
    if what := missing():
        pytest.fail(f"needs {what}", pytrace=False)
    return SecureBootKeys.create(tmp_path_factory.mktemp("ovmf") / "keys")


def boot(folder: Path, keys: SecureBootKeys, cases: list[Case]) -> Told:
    """One boot with these keys, and a program that the db key signed."""
    make_vars(STORE, keys, folder / "vars.fd")
    made = signed(program(folder, cases), keys.db.open(), keys.db.certificate())
    return run(folder, folder / "vars.fd", made)


def contents(told: Told) -> dict[KeyVariable, bytes]:
    """What the four variables hold."""
    return {variable: told.variables[variable, variable.vendor][1] for variable in KeyVariable}


def test_every_change_of_keys_is_taken_and_measured_as_predicted(keys: SecureBootKeys, tmp_path: Path) -> None:
    """Rotation of all three and a revocation, one after the other; a replacement is not taken a second time."""
    second = rotate(keys, KeyVariable.DB)
    third = rotate(second, KeyVariable.KEK)
    fourth = rotate(third, KeyVariable.PK)
    last = revoke(fourth, digests=[b"\1" * 32], certificates=[second.pk.certificate()])
    updates = [update for one in (second, third, fourth, last) for _, update in one.updates()]
    again = third.updates()[0][1]
    cases = [Case(one.variable, one.attributes, one.render()) for one in (*updates, again)]
    told = boot(tmp_path, keys, cases)
    assert told.ended
    assert told.statuses == [SUCCESS] * len(updates) + [SECURITY_VIOLATION]
    assert contents(told) == last.contents
    der = keys.db.certificate().public_bytes(Encoding.DER)
    assert told.pcr7[0] == expected_pcr7(keys.contents, der)
    assert parse_firmware_log(told.log).replay()[7] == told.pcr7[0]
    assert told.pcr7[1] != told.pcr7[0], "a change is measured at once: what is bound to PCR 7 is closed until the boot"


def test_altered_updates_are_refused(keys: SecureBootKeys, tmp_path: Path) -> None:
    """Hundreds of mutants, none of which gets anything into a variable; then the original, which is taken."""
    original = new_update(keys, b"\7" * 32)
    made = mutants(keys, original)
    assert len(made) >= MUTANTS
    cases = [Case(one.variable, KEY_ATTRIBUTES | (0x40 if one.append else 0), one.data) for one in made]
    told = boot(tmp_path, keys, [*cases, Case(original.variable, original.attributes, original.render())])
    assert told.ended
    *statuses, taken = told.statuses
    assert taken == SUCCESS
    assert len(statuses) == len(made)
    # OVMF does not look at some bytes of header and PKCS #7 that nothing depends on (our own check does). There an
    # update with a flipped bit is the original: it must be one of these, and must say the same.
    same = [one for one, status in zip(made, statuses, strict=True) if status == SUCCESS]
    assert len(same) <= 8, Counter(one.kind for one in same)
    for one in same:
        assert (one.variable, one.append) == (original.variable, original.append)
        assert one.kind in {"flip in header or content", "flip in the signature"}, one.name
        assert one.data[:HEAD] == original.render()[:HEAD]
        assert one.data.endswith(original.content)
        assert len(one.data) == len(original.render())
    expected = {**keys.contents, KeyVariable.DBX: keys.contents[KeyVariable.DBX] + original.content}
    assert contents(told) == expected


def test_a_program_of_another_key_does_not_start(keys: SecureBootKeys, tmp_path: Path) -> None:
    """Nor one whose signer is revoked, nor one whose own digest is; with the right keys the same program starts."""
    others = SecureBootKeys.create(tmp_path / "others")
    rotated = rotate(others, KeyVariable.DB)
    made = signed(program(tmp_path, []), others.db.open(), others.db.certificate())
    told = {}
    for name, whose in (
        ("good", rotated),
        ("foreign", keys),
        ("revoked", revoke(rotated, certificates=[others.db.certificate()])),
        ("digest", revoke(rotated, digests=[authenticode(made)])),
    ):
        (tmp_path / name).mkdir()
        make_vars(STORE, whose, tmp_path / name / "vars.fd")
        one = run(tmp_path / name, tmp_path / name / "vars.fd", made)
        told[name] = (one.ended, one.refused)
    assert told.pop("good") == (True, False)
    assert set(told.values()) == {(False, True)}


def test_secure_boot_off_is_another_pcr_7(keys: SecureBootKeys, tmp_path: Path) -> None:
    """The keys are there and any program starts: PCR 7 tells."""
    make_vars(STORE, keys, tmp_path / "vars.fd", secure_boot=False)
    told = run(tmp_path, tmp_path / "vars.fd", program(tmp_path, []))
    assert told.ended
    assert contents(told) == keys.contents
    assert told.pcr7[0] == pcr7(keys.contents, [], secure_boot=False)


def test_the_profile_of_the_virtual_machine_fits(keys: SecureBootKeys, tmp_path: Path) -> None:
    """What 'bsfg firmware check' says of OVMF's own variables and PCR 7, shown as Linux would show them."""
    (tmp_path / "vm").mkdir()
    told = boot(tmp_path / "vm", keys, [])
    box = MadeBox(pcr7=told.pcr7[0], variables={key: data for key, (_, data) in told.variables.items()})
    facts = SysfsFacts(box.write(tmp_path / "box"))
    profile = load_profile(find_profile("qemu-ovmf"))
    found = {one.setting: one for one in check(profile, facts, keys.contents)}
    firmware = (Setting.SECURE_BOOT, Setting.KEYS, Setting.PCR7, Setting.FIRST_BOOT, Setting.NETWORK_BOOT)
    for setting in (*firmware, Setting.USB_BOOT, Setting.CSM):
        assert found[setting].status is Status.OK, found[setting]
    stranger = SecureBootKeys.create(tmp_path / "stranger")
    others = {one.setting: one for one in check(profile, facts, stranger.contents)}
    assert others[Setting.KEYS].status is Status.DIFFERS
