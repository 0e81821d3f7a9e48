# SPDX-License-Identifier: Apache-2.0
"""Box profiles and the comparison with them: strictly read, and every setting noticed when it is wrong."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.serialization import Encoding

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.firmware import profile as profiles
from appliance.firmware.boot_entries import BootKind, parse_entry, parse_order
from appliance.firmware.changes import revoke
from appliance.firmware.check import Finding, Status, check
from appliance.firmware.efi import KeyVariable
from appliance.firmware.facts import FirmwareFacts, Machine
from appliance.firmware.keys import SecureBootKeys, known_contents
from appliance.firmware.measurements import expected_pcr7
from appliance.firmware.profile import ANY, ONLY_BY_EYE, VALUES, How, Profile, Setting, load_profile, parse_profile
from appliance.firmware.report import render
from appliance.firmware.sysfs import SysfsFacts
from tests.boxtree import NOW, PATHS, MadeBox, boot_entry
from tests.contracts.firmware import FirmwareFactsContract, Looks
from tests.fakes.firmware import FakeFacts

SHIPPED = ["gateway-amd-embedded", "gateway-ami-atom", "generic-x86", "ipc-insyde-core", "qemu-ovmf"]


class TestSysfsFacts(FirmwareFactsContract):
    """The files of Linux, written as Linux shows them."""

    @pytest.fixture
    def look(self, tmp_path: Path) -> Looks:
        """Each box in a folder of its own."""
        number = count()
        return lambda box: SysfsFacts(box.write(tmp_path / str(next(number))), now=lambda: NOW)


class TestFakeFacts(FirmwareFactsContract):
    """The fake, without files."""

    @pytest.fixture
    def look(self) -> Looks:
        """The box itself."""
        return FakeFacts


# -- what only files can be --------------------------------------------------------------------------------------------


def test_odd_files_are_not_taken_for_answers(tmp_path: Path) -> None:
    """A variable without attributes, a PCR that is no digest, a clock that is no number."""
    box = MadeBox()
    box.set("SecureBoot", b"\1")
    facts = SysfsFacts(box.write(tmp_path), now=lambda: NOW)
    (file,) = (tmp_path / "sys/firmware/efi/efivars").iterdir()
    file.write_bytes(b"\7\0\0")
    with pytest.raises(OSError, match="3 bytes"):
        facts.variable("SecureBoot", profiles_vendor())
    (tmp_path / "sys/class/tpm/tpm0/pcr-sha256/7").write_text("zz\n", "ascii")
    with pytest.raises(OSError, match="no digest"):
        facts.tpm()
    (tmp_path / "sys/class/rtc/rtc0/since_epoch").write_text("yesterday\n", "ascii")
    with pytest.raises(OSError, match="does not say"):
        facts.clock_offset_s()
    (tmp_path / "sys/class/dmi/id/product_name").write_bytes(b"\x1b[2Jbox\xff\n")
    assert facts.machine().product == "?[2Jbox\N{REPLACEMENT CHARACTER}"


def test_the_driver_is_asked_as_well(tmp_path: Path) -> None:
    """An adapter may wake the box although the kernel would not pass it on."""
    root = MadeBox(adapters={"eno1": False, "eno2": False}).write(tmp_path)
    assert SysfsFacts(root, wakes=lambda name: name == "eno2").wake_on_lan() == {"eno1": False, "eno2": True}


def profiles_vendor() -> Any:
    """The name space of SecureBoot."""
    from appliance.firmware.efi import GLOBAL_VARIABLE

    return GLOBAL_VARIABLE


# -- boot entries ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "kind"), [(name, "disk" if name == "partition" else name) for name in PATHS])
def test_kinds_of_boot_entries(path: str, kind: str) -> None:
    """By the device path; a partition on a stick is a stick."""
    entry = parse_entry(0x1F, boot_entry("Gerät", PATHS[path]))
    assert (entry.kind, entry.active, str(entry)) == (BootKind(kind), True, f'Boot001F "Gerät" ({kind})')
    assert not parse_entry(0, boot_entry("x", PATHS[path], active=False)).active


def test_damaged_boot_entries_are_refused() -> None:
    """Cut off anywhere, or with sizes that do not fit; none loops."""
    good = boot_entry("Disk", PATHS["disk"])
    for size in range(len(good)):
        with pytest.raises(ValueError, match=r"."):
            parse_entry(0, good[:size])
    for bad in (PATHS["disk"][:-6] + b"\3\5\0\0\0\0", struct.pack("<BBH", 3, 5, 200) + b"\0\0", b"\1"):
        with pytest.raises(ValueError, match=r"."):
            parse_entry(0, boot_entry("Disk", bad))
    with pytest.raises(ValueError, match="odd"):
        parse_order(b"\0\0\0")
    assert parse_entry(0, boot_entry("a\x1bb", PATHS["disk"])).title == "a?b"


# -- profiles ----------------------------------------------------------------------------------------------------------


def test_the_shipped_profiles_are_good(root: Path) -> None:
    """All of them parse, all but the one that tests run are marked as templates, and none claims a machine twice."""
    found = profiles.shipped_profiles()
    assert [one.name for one in found] == SHIPPED
    assert [one.name for one in found if not one.template] == ["qemu-ovmf"]
    assert [one.name for one in found if one.vendor] == ["qemu-ovmf"]
    for one in found:
        assert list(one.settings) == list(Setting)
        text = (root / f"firmware-config/profiles/{one.name}.yaml").read_text("utf-8")
        assert not one.template or "Not tried on any hardware" in " ".join(text.replace("\n#", "").split())


def sample() -> dict[str, Any]:
    """A profile that demands the first value of each setting."""
    settings = {
        str(setting): {
            "value": values[0],
            "why": "why",
            "change": "change it",
            "check": "by eye" if setting in ONLY_BY_EYE else "measured",
            **({"question": "is it so?"} if setting in ONLY_BY_EYE else {}),
        }
        for setting, values in VALUES.items()
    }
    machine = {"vendor": "Acme", "product": "Gateway 7"}
    return {"profile": "acme", "title": "Acme", "verified": "", "machine": machine, "settings": settings}


def profile(**changes: dict[str, Any]) -> Profile:
    """The sample, with other fields in some settings."""
    document = sample()
    for setting, fields in changes.items():
        document["settings"][setting].update(fields)
    return parse_profile(yaml.safe_dump(document), "acme")


def _without(*path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        del document[path[-1]]

    return change


def _with(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for name in path[:-1]:
            document = document[name]
        document[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *[(_without("settings", setting), f"[settings] [{setting}] is missing") for setting in Setting],
        *[(_without("settings", "iommu", field), f"iommu] needs {field}") for field in ("value", "why", "check")],
        (_without("settings", "tpm_kind", "question"), "tpm_kind] needs question"),
        (_without("machine"), "machine"),
        (_without("title"), "title"),
        (_with("x", "settings", "iommu", "extra"), "extra"),
        (_with({}, "settings", "iommu_2"), "iommu_2"),
        (_with("x", "note"), "note"),
        (_with("on", "settings", "secure_boot", "value"), "enabled"),
        (_with(True, "settings", "secure_boot", "value"), "value must be str"),
        (_with(2.0, "settings", "tpm", "value"), "value must be str"),
        (_with("any", "settings", "secure_boot", "value"), "enabled"),
        (_with("maybe", "settings", "iommu", "check"), "measured, by eye"),
        (_with("measured", "settings", "tpm_kind", "check"), "cannot see this"),
        (_with(" ", "settings", "iommu", "why"), "why is empty"),
        (_with("other", "profile"), "its file is named"),
        (_with([], "settings"), "must be a table"),
    ],
)
def test_bad_profiles_name_file_and_field(tmp_path: Path, change: Callable[[dict[str, Any]], None], field: str) -> None:
    """So that whoever wrote it can mend it."""
    document, path = sample(), tmp_path / "acme.yaml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    assert load_profile(path).name == "acme"
    change(document)
    path.write_text(yaml.safe_dump(document), "utf-8")
    with pytest.raises(RefusedError) as caught:
        load_profile(path)
    assert caught.value.reason is Reason.BAD_PROFILE
    assert str(path) in caught.value.detail
    assert field in caught.value.detail


@pytest.mark.parametrize(
    "text",
    [
        "",
        "- a list",
        "1: x",
        "profile: acme\nprofile: acme\n",
        "profile: &a acme\ntitle: *a\n",
        "profile: !!python/object/apply:os.getcwd []\n",
        "profile: [",
        "profile: \x00",
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing is run, nothing counts twice."""
    path = tmp_path / "acme.yaml"
    for content in (text.encode(), b"\xff", b"#" * 70_000):
        path.write_bytes(content)
        with pytest.raises(RefusedError) as caught:
            load_profile(path)
        assert caught.value.reason is Reason.BAD_PROFILE
    path.unlink()
    with pytest.raises(RefusedError):
        load_profile(path)


# -- the comparison ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> SecureBootKeys:
    """The image's keys."""
    return SecureBootKeys.create(tmp_path_factory.mktemp("check") / "keys")


@pytest.fixture
def box(keys: SecureBootKeys) -> MadeBox:
    """A box that is as the sample profile wants it."""
    made = MadeBox(smt=("on", "1"))
    made.keys(keys.contents)
    made.set("SecureBoot", b"\1")
    made.set("SetupMode", b"\0")
    made.boots("disk", "firmware")
    made.pcr7 = expected_pcr7(keys.contents, keys.db.certificate().public_bytes(Encoding.DER))
    return made


def finding(box: MadeBox, keys: SecureBootKeys, setting: str, wanted: Profile | None = None) -> Finding:
    """What is found of one setting."""
    findings = check(wanted or profile(), FakeFacts(box), keys.contents)
    return next(one for one in findings if one.setting == setting)


def test_a_box_as_it_should_be(box: MadeBox, keys: SecureBootKeys, tmp_path: Path) -> None:
    """The same from the fake and from files; only what no system can see is asked."""
    both: list[FirmwareFacts] = [FakeFacts(box), SysfsFacts(box.write(tmp_path), now=lambda: NOW)]
    for facts in both:
        findings = check(profile(), facts, keys.contents)
        assert {one.setting: one.status for one in findings if one.status is not Status.OK} == {
            Setting.TPM_KIND: Status.ASK,
            Setting.AFTER_POWER_LOSS: Status.ASK,
        }


def _contents(variable: str, data: bytes) -> Callable[[MadeBox], None]:
    def change(box: MadeBox) -> None:
        one = KeyVariable(variable)
        box.variables[one, one.vendor] = data

    return change


def _set(name: str, data: bytes) -> Callable[[MadeBox], None]:
    return lambda box: box.set(name, data)


def _has(**values: Any) -> Callable[[MadeBox], None]:
    def change(box: MadeBox) -> None:
        for name, value in values.items():
            setattr(box, name, value)

    return change


@pytest.mark.parametrize(
    ("setting", "change", "says"),
    [
        ("secure_boot", _set("SecureBoot", b"\0"), "disabled"),
        ("secure_boot", _set("SetupMode", b"\1"), "setup mode"),
        ("secure_boot", _has(uefi=False), "BIOS"),
        ("keys", _contents("PK", b""), "PK holds nothing, not"),
        ("keys", _contents("KEK", b""), "KEK holds nothing"),
        ("keys", _contents("db", b""), "db holds nothing"),
        ("keys", _contents("dbx", b""), "dbx lacks 1"),
        ("pcr7", _has(pcr7=b"\1" * 32), "more than its keys"),
        ("pcr7", _set("SecureBoot", b"\0"), "more than its keys"),
        ("tpm", _has(tpm_major="1"), "TPM 1.2"),
        ("tpm", _has(tpm_major=None), "no TPM"),
        ("tpm_banks", _has(banks=("sha1", "sha256")), "sha1, sha256"),
        ("tpm_banks", _has(banks=("sha384",)), "sha384"),
        ("first_boot", lambda box: box.boots("disk", "firmware", current=1), "started was Boot0001"),
        ("first_boot", _set("BootNext", b"\1\0"), "Boot0001, once"),
        ("network_boot", lambda box: box.boots("disk", "network"), "Boot0001"),
        ("usb_boot", lambda box: box.boots("disk", "usb"), "Boot0001"),
        ("csm", lambda box: box.boots("disk", "legacy"), "Boot0001"),
        ("csm", _has(uefi=False), "BIOS"),
        ("setup_password", _has(password=0), "not set"),
        ("watchdog", _has(watchdogs=()), "none"),
        ("watchdog", _has(watchdogs=("Software Watchdog",)), "none"),
        ("wake_on_lan", _has(adapters={"eno1": True}), "eno1"),
        ("iommu", _has(iommus=()), "none"),
        ("hyper_threading", _has(smt=("off", "0")), "disabled"),
        ("clock", _has(clock=int(NOW) - 3600), "-3600 s"),
        ("clock", _has(clock=None), "no clock"),
    ],
)
def test_what_is_wrong_is_noticed(
    box: MadeBox, keys: SecureBootKeys, setting: str, change: Callable[[MadeBox], None], says: str
) -> None:
    """One setting wrong at a time: it alone is named, with what to change, and with what is there."""
    assert finding(box, keys, setting).status is Status.OK
    change(box)
    found = finding(box, keys, setting)
    assert found.status is Status.DIFFERS
    assert not found.good
    assert says in found.found
    relaxed = profile(**{setting: {"value": ANY}}) if ANY in VALUES[Setting(setting)] else None
    if relaxed:
        assert finding(box, keys, setting, relaxed).status is Status.OK


def test_every_measured_setting_can_be_found_wrong() -> None:
    """The table above has them all."""
    marks = test_what_is_wrong_is_noticed.pytestmark  # type: ignore[attr-defined]
    tried = {case[0] for case in marks[0].args[1]}
    assert tried == set(Setting) - ONLY_BY_EYE


def test_an_entry_that_is_switched_off_starts_nothing(box: MadeBox, keys: SecureBootKeys) -> None:
    """Firmware keeps such entries."""
    box.boots("disk", "network", "usb", inactive=(1, 2))
    assert finding(box, keys, "network_boot").good
    assert finding(box, keys, "usb_boot").good


def test_a_stick_may_be_started_although_none_is_there(box: MadeBox, keys: SecureBootKeys) -> None:
    """So with a question it is asked; an entry for a stick needs no question."""
    wanted = profile(usb_boot={"question": "is it off?"})
    assert finding(box, keys, "usb_boot", wanted).status is Status.ASK
    box.boots("disk", "usb")
    assert finding(box, keys, "usb_boot", wanted).status is Status.DIFFERS


def test_more_in_dbx_is_no_fault(box: MadeBox, keys: SecureBootKeys, tmp_path: Path) -> None:
    """A maker's list of what is revoked may be there too; what we revoked must be."""
    shutil.copytree(keys.root, tmp_path / "keys")
    later = revoke(SecureBootKeys.load(tmp_path / "keys"), digests=[b"\5" * 32])
    box.keys({**keys.contents, KeyVariable.DBX: later.contents[KeyVariable.DBX]})
    assert finding(box, keys, "keys").status is Status.OK
    box.keys(keys.contents)
    assert finding(box, later, "keys").found == "dbx lacks 1 of what is revoked"


def test_an_entry_more_in_db_is_a_fault(box: MadeBox, keys: SecureBootKeys, tmp_path: Path) -> None:
    """A maker's key beside ours lets the maker's programs start."""
    maker = SecureBootKeys.create(tmp_path / "maker")
    for variable in (KeyVariable.KEK, KeyVariable.DB):
        box.keys({**keys.contents, variable: keys.contents[variable] + maker.contents[variable]})
        assert finding(box, keys, "keys").status is Status.DIFFERS


def test_without_our_keys_the_question_is_asked(box: MadeBox) -> None:
    """The digits to compare are shown; without a question it cannot be decided."""
    wanted = profile(keys={"question": "are they ours?"})
    [asked] = [one for one in check(wanted, FakeFacts(box)) if one.setting is Setting.KEYS]
    assert asked.status is Status.ASK
    assert re.search(r"PK holds [0-9a-f]{16}; KEK holds [0-9a-f]{16}; db holds [0-9a-f]{16}; dbx", asked.found)
    [unknown] = [one for one in check(profile(), FakeFacts(box)) if one.setting is Setting.KEYS]
    assert (unknown.status, unknown.good) == (Status.UNKNOWN, False)


def test_what_cannot_be_read_is_not_good(box: MadeBox, keys: SecureBootKeys) -> None:
    """Neither where variables are missing, nor where they are damaged."""
    box.set("BootOrder", b"\0")
    assert finding(box, keys, "usb_boot").status is Status.UNKNOWN
    box.set("BootOrder", b"\0\0")
    box.set("Boot0000", b"\0")
    assert finding(box, keys, "first_boot").status is Status.UNKNOWN
    _contents("db", b"damaged")(box)
    assert finding(box, keys, "keys").status is Status.UNKNOWN
    box.variables.clear()
    unknown = {one.setting for one in check(profile(), FakeFacts(box), keys.contents) if not one.good}
    assert {"secure_boot", "keys", "pcr7", "first_boot", "network_boot", "usb_boot", "csm"} <= unknown


def test_a_processor_without_threads(box: MadeBox, keys: SecureBootKeys) -> None:
    """It has them as good as switched off."""
    box.smt = ("notsupported", "0")
    assert finding(box, keys, "hyper_threading", profile(hyper_threading={"value": "disabled"})).good
    assert not finding(box, keys, "hyper_threading").good


def test_by_eye_is_never_decided_here(box: MadeBox, keys: SecureBootKeys) -> None:
    """Whatever could be seen."""
    by_eye = {"check": How.BY_EYE.value, "question": "is it so?"}
    wanted = profile(**dict.fromkeys(Setting, by_eye))
    box.set("SecureBoot", b"\0")
    assert {one.status for one in check(wanted, FakeFacts(box), keys.contents)} == {Status.ASK}


def test_the_report_has_everything(box: MadeBox, keys: SecureBootKeys) -> None:
    """Machine, profile, every setting, what to change, room for answers."""
    box.iommus = ()
    findings = check(profile(), FakeFacts(box), keys.contents)
    wanted = replace(profile(), verified="the first box")
    text = render(wanted, Machine("Acme", "Gateway 7", "Maker 1.2"), findings, datetime(2026, 12, 1, 8, 5, tzinfo=UTC))
    assert "machine   Acme Gateway 7\nfirmware  Maker 1.2\nprofile   acme: Acme\n" in text
    assert "tried on: the first box" in text
    assert "2026-12-01 08:05 UTC\nresult    1 to change, 2 to look at, 14 as they should be\n" in text
    assert "[differs] iommu: enabled\n  found   none in use\n  do      change it\n  why     why\n" in text
    assert "[ask] tpm_kind: discrete\n  look    is it so?\n  if not  change it\n  answer  ____" in text
    assert {setting for setting in Setting if f"] {setting}: " in text} == set(Setting)


# -- the command -------------------------------------------------------------------------------------------------------


def bsfg(*arguments: object) -> Result:
    """The command line."""
    return CliRunner().invoke(cli, ["firmware", *map(str, arguments)])


def test_the_command_compares(box: MadeBox, keys: SecureBootKeys, tmp_path: Path) -> None:
    """Exit code 0 and 3, the report in its file, JSON for programs; the image's keys are found in the image."""
    box.clock = None  # a copy of files has no running clock
    tree, file, report = box.write(tmp_path / "box"), tmp_path / "acme.yaml", tmp_path / "report.txt"
    document = sample()
    document["settings"]["clock"]["value"] = "any"
    file.write_text(yaml.safe_dump(document), "utf-8")
    good = bsfg("check", "--sysroot", tree, "--profile", file, "--keys", keys.root, "--report", report)
    assert good.exit_code == 0, good.output
    assert "Acme Gateway 7" in good.output
    assert report.read_text("utf-8").startswith("Firmware of a box")
    public = tree / "usr/lib/bsfg/firmware/keys"
    public.mkdir(parents=True)
    for name, data in keys.public_files().items():
        (public / name).write_bytes(data)
    assert known_contents(public) == keys.contents
    asked = bsfg("check", "--sysroot", tree, "--profile", file, "--output", "json")
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.stdout)["good"] is True
    (tree / "sys/class/tpm/tpm0/tpm_version_major").write_text("1\n", "ascii")
    bad = bsfg("check", "--sysroot", tree, "--profile", file, "--output", "json")
    assert bad.exit_code == 3
    told = json.loads(bad.stdout)
    assert told["good"] is False
    assert [one["setting"] for one in told["settings"] if one["status"] == "differs"] == ["tpm"]
    assert json.loads(bad.stderr)["error"]["reason"] == "firmware_differs"
    assert json.loads(bad.stderr)["error"]["detail"] == "tpm"


def test_the_command_finds_the_profile(tmp_path: Path) -> None:
    """By what the machine says of itself; else the generic one; a name that is none is refused with those that are."""
    qemu = MadeBox(vendor="QEMU", product="Standard PC (Q35 + ICH9, 2009)").write(tmp_path / "qemu")
    assert "qemu-ovmf" in bsfg("check", "--sysroot", qemu).output
    other = bsfg("check", "--sysroot", MadeBox().write(tmp_path / "other"))
    assert "generic-x86" in other.output
    assert "a template: nobody has tried it on this hardware" in other.output
    wrong = bsfg("check", "--sysroot", qemu, "--profile", "no-such")
    assert wrong.exit_code == 1
    assert "there are: gateway-amd-embedded" in wrong.stderr


def test_the_commands_for_keys(tmp_path: Path) -> None:
    """A ceremony: make, show, rotate, revoke; with a passphrase file, and never twice."""
    folder, word = tmp_path / "keys", tmp_path / "word"
    word.write_text("a long passphrase\nnot this line", "utf-8")
    common = ("--dir", folder, "--passphrase-file", word)
    made = bsfg("keys", "create", "--name", "Works 7", *common)
    assert made.exit_code == 0, made.output
    assert "Works 7 Secure Boot platform key 1" in made.output
    assert bsfg("keys", "create", *common).exit_code == 1
    shown = json.loads(bsfg("keys", "show", "--dir", folder, "--output", "json").stdout)
    assert shown["keys"]["db"]["encrypted"] is True
    assert (shown["generation"], shown["revoked"], len(shown["updates"])) == (1, 0, 4)
    assert bsfg("keys", "rotate", "db", *common).exit_code == 0
    word.write_text("another passphrase", "utf-8")
    refused = bsfg("keys", "rotate", "KEK", *common)
    assert (refused.exit_code, "firmware_keys" in refused.stderr) == (1, True)
    word.write_text("a long passphrase", "utf-8")
    assert bsfg("keys", "revoke", *common, "--certificate", folder / "0002/db.crt").exit_code == 1
    done = bsfg(
        "keys", "revoke", *common, "--certificate", folder / "0001/db.crt", "--digest", "ab" * 32, "--output", "json"
    )
    assert done.exit_code == 0, done.output
    last = json.loads(done.stdout)
    assert (last["generation"], last["revoked"]) == (3, 2)
    assert Path(last["updates"][0]).name == "1-dbx-append.auth"
    # Images of the first db key start no more; those of the second lead to one value, which is shown.
    assert set(last["pcr7"]) == {last["keys"]["db"]["sha256"]}
    assert set(shown["pcr7"]) == {shown["keys"]["db"]["sha256"]}
    assert bsfg("keys", "revoke", *common, "--digest", "xy").exit_code == 2
    word.write_text("short", "utf-8")
    assert bsfg("keys", "create", "--dir", tmp_path / "other", "--passphrase-file", word).exit_code == 1
    assert not (tmp_path / "other").exists()


def test_the_command_for_stores(keys: SecureBootKeys, tmp_path: Path) -> None:
    """A store is written once; what is no template is refused."""
    (tmp_path / "no.fd").write_bytes(bytes(4096))
    refused = bsfg("vars", tmp_path / "vars.fd", "--dir", keys.root, "--template", tmp_path / "no.fd")
    assert (refused.exit_code, "no variable store" in refused.stderr) == (1, True)
    assert not (tmp_path / "vars.fd").exists()
    again = bsfg("vars", tmp_path / "no.fd", "--dir", keys.root, "--template", tmp_path / "no.fd")
    assert again.exit_code == 2
