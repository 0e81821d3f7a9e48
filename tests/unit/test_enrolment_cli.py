# SPDX-License-Identifier: Apache-2.0
"""``bsfg hub``, ``bsfg enrol`` and ``bsfg operator voucher`` as people and programs use them; boxes are simulated."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from appliance.boundary.reasons import ExitCode
from appliance.cli.main import cli
from appliance.hub.enrolment.authority import read_authority
from appliance.hub.enrolment.setup import authority_pem
from appliance.keys.enrolment.boxside import Papers
from appliance.keys.enrolment.documents import Grant, Pending
from appliance.keys.operators import new_operator_key
from appliance.keys.registry import Registry
from tests.boxes import EK_KEYS, HUB, OTHER, PLANT, SimulatedBox, Site

PASSPHRASE = "correct horse battery staple"


def bsfg(*arguments: str | Path, answer: str = "") -> Result:
    """Run a command."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=answer)


class Office:
    """A hub made by the command line, with the machine's clock."""

    def __init__(self, folder: Path) -> None:
        self.site = Site(folder, now_ms=time.time_ns() // 1_000_000)
        plan = self.site.plan()
        (folder / "passphrase").write_text(PASSPHRASE)
        new_operator_key(folder / "admitter.key", PASSPHRASE)
        files = {
            "--vendor": plan.vendors,
            "--release-operator": plan.release_operators,
            "--enrolment-operator": [folder / "admitter.key.pub"],
            "--image-key": plan.image_keys,
        }
        given = [word for option, paths in files.items() for path in paths for word in (option, path)]
        made = bsfg("hub", "init", *self.office, "--zone", HUB, "--pki", plan.pki_dir, *given)
        assert made.exit_code == 0, made.output
        assert "not enrolled" in made.stdout

    @property
    def office(self) -> tuple[str, Path]:
        """The option that names it."""
        return "--office", self.site.office_folder

    def json(self, *arguments: str | Path) -> Any:
        """What a command says to a program."""
        result = bsfg("hub", *arguments, *self.office, "--output", "json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    def error(self, *arguments: str | Path, answer: str = "") -> tuple[int, str]:
        """Exit code and reason of a command that fails; it has a hint."""
        result = bsfg("hub", *arguments, *self.office, answer=answer)
        assert "hint: " in result.stderr
        return result.exit_code, result.stderr.partition("error: ")[2].partition(":")[0]


@pytest.fixture
async def office(tmp_path: Path) -> Office:
    """A hub whose own zone is enrolled."""
    made = Office(tmp_path)
    await made.site.own()
    return made


async def test_a_box_is_approved_and_revoked(office: Office) -> None:
    """Each step shows in the lists; a dry run and a no change nothing."""
    box = SimulatedBox()
    assert isinstance(await office.site.enrol(box), Pending)
    (waiting,) = office.json("pending")
    assert (waiting["fingerprint"], waiting["zone"], waiting["waits_for"]) == (box.fingerprint, PLANT, "approval")
    assert "vendor root" in bsfg("hub", "pending", *office.office).stdout
    short = box.fingerprint[:8]
    assert office.json("approve", short, "--dry-run")["state"] == "would be approved"
    assert office.json("pending") == [waiting]
    assert office.json("approve", short)["state"] == "enrolled"
    assert isinstance(await office.site.enrol(box), Grant)
    assert office.json("revoke", PLANT, "--dry-run")["state"] == "would be revoked"
    assert office.error("revoke", PLANT, answer="n\n") == (ExitCode.FAILURE, "not_confirmed")
    assert office.error("revoke", PLANT) == (ExitCode.FAILURE, "not_confirmed")
    assert [entry["state"] for entry in office.json("boxes", "list")] == ["enrolled", "enrolled"]
    assert office.json("revoke", PLANT, "--reason", "lost", "--yes")["state"] == "revoked"
    entry = next(entry for entry in office.json("boxes", "list") if entry["zone"] == PLANT)
    assert (entry["state"], entry["reason"]) == ("revoked", "lost")
    assert "lost" in bsfg("hub", "boxes", "list", *office.office).stdout


async def test_a_voucher_from_an_operators_machine(office: Office, tmp_path: Path) -> None:
    """Signed with an encrypted key; the hub says what it thinks of it, before and after."""
    box, voucher = SimulatedBox(), tmp_path / "voucher.json"
    key = ("--key", tmp_path / "admitter.key", "--passphrase-file", tmp_path / "passphrase")
    signed = bsfg("operator", "voucher", voucher, "--zone", PLANT, "--fingerprint", box.fingerprint.upper(), *key)
    assert signed.exit_code == 0, signed.output
    assert office.json("voucher", voucher)["good"] == "yes"
    assert isinstance(await office.site.enrol(box, Papers(voucher.read_bytes())), Grant)
    assert office.json("voucher", voucher)["good"].startswith("voucher_used")
    bad = bsfg("operator", "voucher", voucher, "--zone", PLANT, "--fingerprint", "12", *key)
    assert bad.exit_code == ExitCode.DENIED
    assert "bad_voucher" in bad.stderr


async def test_a_box_is_replaced_and_denied(office: Office, tmp_path: Path) -> None:
    """By fingerprint or voucher, one of them."""
    old, new = SimulatedBox(), SimulatedBox(ek=EK_KEYS[1])
    office.json("approve", old.fingerprint, "--zone", PLANT)
    assert office.json("pending")[0]["waits_for"] == "box"
    await office.site.enrol(old)
    named = ("--fingerprint", new.fingerprint)
    assert office.error("replace", PLANT) == (ExitCode.USAGE, "bad_input")
    assert office.error("replace", PLANT, *named, "--voucher", tmp_path) == (ExitCode.USAGE, "usage")
    assert office.error("replace", PLANT, *named) == (ExitCode.FAILURE, "not_confirmed")
    assert office.json("replace", PLANT, *named, "--dry-run")["state"] == "would be replaced"
    assert isinstance(await office.site.enrol(old), Grant)
    assert office.json("replace", PLANT, *named, "--reason", "broken", "--yes")["fingerprint"] == old.fingerprint
    assert isinstance(await office.site.enrol(new), Grant)
    stranger = SimulatedBox(ek=old.ek, zone=OTHER)
    assert isinstance(await office.site.enrol(stranger), Pending)
    assert office.json("deny", stranger.fingerprint[:10], "--reason", "whose is it?")["state"] == "denied"
    assert office.json("pending") == []


async def test_the_passphrase_of_the_hub_ca(office: Office, tmp_path: Path) -> None:
    """Whoever signs is asked for it, or gives a file; a wrong one is an error, and the box waits."""
    folder = office.site.office.folder
    folder.authority.write_bytes(authority_pem(read_authority(folder.authority), PASSPHRASE))
    box = SimulatedBox()
    office.json("approve", box.fingerprint, "--zone", PLANT, "--passphrase-file", tmp_path / "passphrase")
    assert isinstance(await office.site.enrol(box), Pending)
    assert office.json("pending")[0]["waits_for"] == "authority"
    assert office.error("certify", answer="wrong\n") == (ExitCode.NOT_READY, "authority_unavailable")
    done = bsfg("hub", "certify", *office.office, answer=PASSPHRASE + "\n")
    assert (done.exit_code, "enrolled" in done.stdout) == (0, True)
    assert isinstance(await office.site.enrol(box), Grant)


async def test_the_box_file_is_exported(office: Office, tmp_path: Path) -> None:
    """What release operators keep."""
    box = SimulatedBox()
    office.json("approve", box.fingerprint, "--zone", PLANT)
    await office.site.enrol(box)
    made = office.json("boxes", "export", PLANT, "--out", tmp_path / "box.json")
    shown = bsfg("release", "show", tmp_path / "box.json", "--output", "json")
    assert shown.exit_code == 0, shown.output
    assert made["fingerprint"] in shown.stdout
    assert office.error("boxes", "export", OTHER, "--out", tmp_path / "x") == (ExitCode.USAGE, "unknown_box")


async def test_what_cannot_be_done_says_why(office: Office, tmp_path: Path) -> None:
    """With a reason, a hint, and an exit code."""
    (tmp_path / "none.json").write_text("{}\n")
    cases: list[tuple[tuple[str | Path, ...], tuple[int, str]]] = [
        (("approve", "12345678"), (ExitCode.USAGE, "unknown_box")),
        (("approve", "ab" * 32), (ExitCode.USAGE, "unknown_box")),
        (("deny", "ab" * 32), (ExitCode.USAGE, "unknown_box")),
        (("revoke", OTHER, "--yes"), (ExitCode.USAGE, "unknown_box")),
        (("revoke", HUB, "--yes"), (ExitCode.USAGE, "bad_input")),
        (("voucher", tmp_path / "none.json"), (ExitCode.DENIED, "bad_voucher")),
        (("voucher", tmp_path / "nothing"), (ExitCode.USAGE, "bad_input")),
        (("certify", tmp_path / "none.json"), (ExitCode.DENIED, "bad_certificate")),
        (("answer", tmp_path / "none.json", "--out", tmp_path / "answer"), (ExitCode.FAILURE, "bad_document")),
    ]
    for arguments, expected in cases:
        assert office.error(*arguments) == expected, arguments
    nowhere = bsfg("hub", "pending", "--office", tmp_path / "nowhere")
    assert (nowhere.exit_code, "bsfg hub init" in nowhere.stderr) == (ExitCode.NOT_READY, True)
    assert Registry.load(office.site.office.config.pki).denied == ()


def test_a_box_without_a_keeper_says_so(tmp_path: Path) -> None:
    """And an address that is none is one of usage."""
    missing = bsfg("enrol", "status", "--keeper", tmp_path / "nowhere.sock")
    assert missing.exit_code == ExitCode.NOT_READY
    for hub in ("hub", "hub:0", ":x", "hub:99999"):
        box = ("--keeper", tmp_path / "k", "--pki", tmp_path, "--hub-zone", HUB)
        assert bsfg("enrol", "run", *box, "--hub", hub).exit_code == ExitCode.USAGE
