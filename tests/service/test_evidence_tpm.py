# SPDX-License-Identifier: Apache-2.0
"""Evidence by a real (software) TPM: sealed, carried away, read, checked; the release is over its file."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result

from appliance.box.carry import laid_out, put
from appliance.cli.main import cli
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.verdict import Expected, judge
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.keeper.port import KeeperState
from appliance.keys.release import add_signature, new_release
from appliance.keys.release_request import request_of
from appliance.keys.tpm.public import ATTESTATION, Digest, ecdsa_public_of
from appliance.watchdog.evidence.bundle import digest_of
from appliance.watchdog.evidence.outgoing import Outgoing
from appliance.watchdog.evidence.store import EvidenceStore
from appliance.watchdog.evidence.verifying import Lock, verify
from tests.evidence import Quarantined, quarantined
from tests.keepers import PEOPLE, PLANT

NONCE = bytes(range(32))


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Quarantined]:
    """One box, quarantined once."""
    with quarantined(tmp_path_factory.mktemp("box")) as box:
        yield box


@pytest.fixture
def desk(box: Quarantined, tmp_path: Path) -> Path:
    """The box's folder of evidence, and an operator's box file."""
    EvidenceStore(tmp_path / "kept").add(box.bundle, box.seal)
    (tmp_path / "box.json").write_bytes(box.box.render())
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """One command."""
    return CliRunner().invoke(cli, ["evidence", *map(str, arguments)])


def exported(desk: Path) -> Path:
    """The bundle, on a stick."""
    done = run("export", desk / "stick", "--from", desk / "kept", "--output", "json")
    assert done.exit_code == 0, done.output
    return Path(json.loads(done.stdout)[0]["file"])


def test_it_is_carried_away_read_and_checked(desk: Path, box: Quarantined) -> None:
    """Within seconds, without hub and TPM; a second export finds it done."""
    file = exported(desk)
    assert file.read_bytes() == box.bundle
    again = json.loads(run("export", desk / "stick", "--from", desk / "kept", "--all", "--output", "json").stdout)
    assert [row["copied"] for row in again] == [False]
    shown = run("show", file)
    assert shown.exit_code == 0
    assert "secure_boot_off: Secure Boot is off" in shown.output
    assert "the link is up" in shown.output
    assert run("show", str(file).replace("evidence.json", "seal.json")).exit_code == 0
    assert json.loads(run("show", file, "--output", "json").stdout)["counter"] == 2
    began = time.monotonic()
    checked = run("verify", file, "--box", desk / "box.json")
    assert time.monotonic() - began < 10
    assert checked.exit_code == 0, checked.output
    assert "The boundary key was locked for this case and for no other" in checked.output
    values = json.loads(run("verify", file, "--box", desk / "box.json", "--output", "json").stdout)
    assert (values["counter"], values["differs"], values["lock"]) == (2, [], "this_case")
    assert values["tpm_clock_ms"] >= values["locked_at_tpm_clock_ms"]


def test_what_is_no_evidence_of_this_box_is_said_to_be_none(desk: Path, box: Quarantined) -> None:
    """With exit codes that programs can tell apart; a stick's other files stay as they are."""
    file = exported(desk)
    file.write_bytes(box.bundle.replace(b"SecureBoot is 0", b"SecureBoot is 1"))
    changed = run("verify", file, "--box", desk / "box.json")
    assert changed.exit_code == 4
    assert "bad_evidence" in changed.output
    refused = run("export", desk / "stick", "--from", desk / "kept")
    assert refused.exit_code != 0
    assert "not written over" in refused.output
    assert b"SecureBoot is 1" in file.read_bytes()
    assert run("show", desk / "box.json").exit_code != 0
    assert run("verify", desk / "box.json", "--box", desk / "box.json").exit_code != 0
    empty = run("export", desk / "stick", "--from", desk / "none")
    assert "never in quarantine" in empty.output
    file.unlink()
    file.symlink_to(desk / "elsewhere")
    assert run("export", desk / "stick", "--from", desk / "kept").exit_code != 0
    assert not (desk / "elsewhere").exists()


def test_an_export_that_was_cut_is_completed(desk: Path) -> None:
    """What was half written is written anew."""
    file = exported(desk)
    file.rename(file.with_name(f".{file.name}.partial"))
    assert exported(desk) == file
    assert [each.name for each in (desk / "stick").iterdir() if each.name.endswith(".partial")] == []


def test_another_boot_shows(box: Quarantined) -> None:
    """Sealed once more after the machine was started anew: proven, and told apart."""
    first = verify(box.bundle, box.seal, box.box)
    assert first.lock is Lock.THIS_CASE
    box.reboot()
    again, seal = box.again(number=2, previous=digest_of(box.bundle).hex())
    later = verify(again, seal, box.box)
    assert (later.counter, later.lock) == (first.counter, Lock.EARLIER)
    assert later.clock.reset_count == first.clock.reset_count + 1


async def release(box: Quarantined, enrolled: EnrolledBox, evidence: Digest) -> KeeperState:
    """Both operators, and the keeper's state afterwards."""
    request = await request_of(box.keeper, evidence)
    signed = new_release(enrolled, request)
    for key in PEOPLE:
        signed = add_signature(enrolled, request, signed, key)
    await box.keeper.import_release(signed.render())
    return (await box.keeper.status()).state


def test_the_release_is_over_the_file(desk: Path, box: Quarantined) -> None:
    """SHA-256 of the bundle's file is what both operators sign; another file is refused."""
    file, stick = exported(desk), desk / "stick"
    (desk / "request.json").unlink(missing_ok=True)
    arguments = ["release", "request", desk / "request.json", "--keeper", box.site.socket, "--evidence", file]
    asked = CliRunner().invoke(cli, [str(each) for each in arguments])
    assert asked.exit_code == 0, asked.output
    assert digest_of(box.bundle).hex() in asked.output
    common = ["--box", desk / "box.json", "--request", desk / "request.json", "--key", "none", "--dry-run"]
    for evidence, code in ((file, 0), (next(stick.glob("*.seal.json")), 4)):
        signing = ["release", "sign", desk / "release.json", *common, "--evidence", evidence]
        outcome = CliRunner().invoke(cli, [str(each) for each in signing])
        assert outcome.exit_code == code, outcome.output
    enrolled = EnrolledBox.parse((desk / "box.json").read_bytes())
    assert trio.run(release, box, enrolled, digest_of(file.read_bytes())) is not KeeperState.LATCHED


def test_what_a_stick_gets_is_what_operators_check_and_sign(desk: Path, box: Quarantined) -> None:
    """Laid out and copied as the box does it: bundle and seal hold, and the request is over this bundle."""
    outgoing = Outgoing(box.keeper, EvidenceStore(desk / "kept"), desk / "outgoing")
    trio.run(outgoing.lay_out, digest_of(box.bundle))
    (desk / "stick").mkdir()
    place = put(desk / "stick", laid_out(desk / "outgoing"))
    (file,), (request,) = place.glob("*.evidence.json"), place.glob("*.request.json")
    checked = run("verify", file, "--box", desk / "box.json")
    assert checked.exit_code == 0, checked.output
    common = ["--box", desk / "box.json", "--request", request, "--key", "none", "--dry-run", "--evidence", file]
    signing = CliRunner().invoke(cli, [str(each) for each in ("release", "sign", desk / "release.json", *common)])
    assert signing.exit_code == 0, signing.output


def test_the_hub_sees_the_lock_and_the_release(box: Quarantined) -> None:
    """Locked once more and started anew, its PCRs are good: the counter tells, and only a release for it helps."""

    async def shown() -> Evidence:
        certified = await box.keeper.certify(NONCE)
        return Evidence.parse(Evidence.of(PLANT, await box.keeper.quote(NONCE), certified).render())

    trio.run(box.keeper.latch, box.case.digest())
    box.reboot()
    policy = box.box.policy
    area = ecdsa_public_of(box.box.attestation_key, ATTESTATION)
    before = trio.run(shown)
    enrolled = EnrolledAttestation(area, dict(before.pcrs), policy.image_key, 0, box.box.birth_counter, policy)
    refused = judge(Expected(enrolled), before, NONCE, 0)
    assert [finding.text for finding in refused.findings if finding.fatal] == [
        "the quarantine counter is 3, and was 1: the box was in quarantine, and its release is for counter 2"
    ]
    assert judge(Expected(replace(enrolled, counter=3)), before, NONCE, 0).accepted
    trio.run(release, box, box.box, digest_of(box.bundle))
    released = judge(Expected(enrolled), trio.run(shown), NONCE, 0)
    assert released.accepted
    assert released.standing.release is not None
    assert released.standing.release.evidence == digest_of(box.bundle)
