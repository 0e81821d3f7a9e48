# SPDX-License-Identifier: Apache-2.0
"""The release commands, as operators use them: on files, with passphrases, and with nothing signed by accident."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization

from appliance.boundary.names import parse_zone
from appliance.cli.main import cli
from appliance.keys.code_parts import parts_of
from appliance.keys.keeper.port import BoxDescription, Certified, KeeperPort, KeeperState, KeeperStatus, Quote
from appliance.keys.release import Release, ReleaseRequest, verify
from appliance.keys.release_code import ReleaseCode
from appliance.keys.release_request import request_of
from appliance.keys.tpm.public import Attestation, Digest
from tests.releases import EVIDENCE, PCRS, ZONE, Case, statement

WORDS = "only an example, 7 pumps"


class Desk:
    """What lies on an operator's desk: keys, box file, request."""

    def __init__(self, folder: Path) -> None:
        self.case, self.folder = Case.make(), folder
        self.release = folder / "release.json"
        (folder / "words").write_text(WORDS)
        (folder / "evidence").write_bytes(b"evidence")
        (folder / "box.json").write_bytes(self.case.box.render())
        self.ask(self.case.request)
        encryption = serialization.BestAvailableEncryption(WORDS.encode())
        for name, key in zip("abc", self.case.keys, strict=True):
            text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
            (folder / f"{name}.pem").write_bytes(text)

    def ask(self, request: ReleaseRequest) -> None:
        """Put this request on the desk."""
        (self.folder / "request.json").write_bytes(request.render())

    def run(self, command: str, *more: str, answer: str = "") -> Result:
        """One command on the release, with the box file."""
        arguments = ["release", command, str(self.release), "--box", str(self.folder / "box.json"), *more]
        return CliRunner().invoke(cli, arguments, input=answer)

    def sign(self, who: str, *more: str, answer: str = "y\n") -> Result:
        """``bsfg release sign`` as one operator."""
        files = {"--request": "request.json", "--key": f"{who}.pem", "--passphrase-file": "words"}
        options = [text for name, file in files.items() for text in (name, str(self.folder / file))]
        return self.run("sign", *options, *more, answer=answer)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A box whose counter is 7 and was 6 at enrolment."""
    return Desk(tmp_path)


def test_two_operators_one_after_the_other(desk: Desk) -> None:
    """Each sees what it is about; the file is complete after the second."""
    first = desk.sign("c", "--evidence", str(desk.folder / "evidence"))
    assert first.exit_code == 0, first.output
    assert "7: 1 more than at enrolment (6)" in first.output
    assert "1 of 2: 1 missing" in first.output
    assert desk.run("verify").exit_code == 3
    second = desk.sign("a", "--yes", "--output", "json")
    assert second.exit_code == 0, second.output
    assert json.loads(second.stdout)["complete"] is True
    checked = desk.run("verify", "--request", str(desk.folder / "request.json"), "--output", "json")
    assert checked.exit_code == 0, checked.output
    values = json.loads(checked.stdout)
    assert [part["operator"] for part in values["signed_by"]] == [1, 3]
    assert values["fits_qr"]
    assert values["fingerprint"] == desk.case.box.fingerprint
    verify(desk.case.box.policy, Release.parse(desk.release.read_bytes()))
    third = desk.sign("b")
    assert third.exit_code == 4
    assert "bad_release" in third.output


def test_the_text_of_the_qr_code_does_as_well(desk: Desk) -> None:
    """Scanned, in parts, or in a file; what is signed is the same."""
    text = ReleaseCode.of(desk.case.request).render()
    parts = parts_of(text, 2)
    (desk.folder / "scanned").write_text("\n".join(parts) + "\n")
    options = ("--key", str(desk.folder / "c.pem"), "--passphrase-file", str(desk.folder / "words"), "--yes")
    first = desk.run("sign", *(word for part in parts for word in ("--request", part)), *options)
    assert first.exit_code == 0, first.output
    assert "7: 1 more than at enrolment (6)" in first.output
    for request in (text, text.lower(), str(desk.folder / "scanned"), str(desk.folder / "request.json")):
        assert desk.run("verify", "--request", request).exit_code == 3, request
    second = desk.sign("a", "--yes")
    assert second.exit_code == 0, second.output
    verify(desk.case.box.policy, Release.parse(desk.release.read_bytes()))
    shown = CliRunner().invoke(
        cli, ["release", "show", str(desk.folder / "scanned"), "--box", str(desk.folder / "box.json")]
    )
    assert "request" in shown.output
    desk.release.unlink()
    for wrong in ((parts[0],), (parts[1],), (f"{text}A",), (parts[0], parts_of(text, 3)[1])):
        done = desk.run("sign", *(word for each in wrong for word in ("--request", each)), *options)
        assert (done.exit_code, "bad_document" in done.output) == (1, True), done.output
    other = ReleaseCode.of(replace(Case.make().request, pcrs={**PCRS, 12: bytes(32)})).render()
    done = desk.run("sign", "--request", other, "--accept-pcrs", *options)
    assert (done.exit_code, "PCRs changed" in done.output) == (4, True), done.output
    assert not desk.release.exists()


@pytest.mark.parametrize("answer", ["", "n\n", "\n"])
def test_nothing_is_signed_without_a_yes(desk: Desk, answer: str) -> None:
    """Silence is no yes."""
    outcome = desk.sign("a", answer=answer)
    assert outcome.exit_code == 1
    assert "not_confirmed" in outcome.output
    assert not desk.release.exists()


def test_a_dry_run_signs_nothing(desk: Desk) -> None:
    """It asks for no passphrase either; a bad request fails it."""
    outcome = desk.sign("a", "--dry-run", "--passphrase-file", str(desk.folder / "evidence"), answer="")
    assert outcome.exit_code == 0, outcome.output
    assert not desk.release.exists()
    desk.ask(replace(desk.case.request, counter=8))
    assert desk.sign("a", "--dry-run").exit_code == 4


def wrong_requests(case: Case) -> list[tuple[str, ReleaseRequest]]:
    """Requests that nobody may sign."""
    request = case.request
    other = Case.make()
    ahead = Attestation(statement(8, EVIDENCE), request.certificate.signature)
    return [
        ("a counter that is not certified", replace(request, counter=8)),
        ("a statement of the next counter, unsigned", replace(request, counter=8, certificate=ahead)),
        ("another box's certificate", replace(request, certificate=other.request.certificate)),
        ("other evidence", replace(request, evidence=Digest(bytes(32)))),
        ("another device", replace(request, device=bytes(32))),
        ("another zone", replace(request, zone=parse_zone("plant-b"))),
        ("changed PCRs", replace(request, pcrs={**PCRS, 12: bytes(32)})),
    ]


@pytest.mark.parametrize("place", range(7))
def test_a_wrong_request_is_not_signed(desk: Desk, place: int) -> None:
    """Neither by the first operator nor by the second, whatever is confirmed."""
    assert desk.sign("a").exit_code == 0
    before = desk.release.read_bytes()
    what, request = wrong_requests(desk.case)[place]
    desk.ask(request)
    outcome = desk.sign("b", "--yes")
    assert outcome.exit_code == 4, what
    assert "bad_evidence" in outcome.output
    assert desk.release.read_bytes() == before
    desk.release.unlink()
    assert desk.sign("b", "--yes").exit_code == 4, what
    assert not desk.release.exists()


def test_changed_pcrs_are_named_and_signed_on_demand_only(desk: Desk) -> None:
    """A new Secure Boot key is such a case."""
    desk.ask(replace(desk.case.request, pcrs={**PCRS, 7: bytes(32)}))
    refused = desk.sign("a")
    assert refused.exit_code == 4
    assert "Secure Boot: CHANGED since enrolment" in refused.output
    accepted = desk.sign("a", "--accept-pcrs")
    assert accepted.exit_code == 0, accepted.output
    assert desk.sign("b", "--accept-pcrs").exit_code == 0
    assert desk.run("verify").exit_code == 0


def test_other_evidence_than_was_read_is_refused(desk: Desk) -> None:
    """The operator read something else than the box was locked for."""
    (desk.folder / "evidence").write_bytes(b"other")
    outcome = desk.sign("a", "--evidence", str(desk.folder / "evidence"))
    assert outcome.exit_code == 4
    assert "bad_evidence" in outcome.output


def test_a_wrong_passphrase_or_a_foreign_key_signs_nothing(desk: Desk) -> None:
    """Said as what it is."""
    (desk.folder / "words").write_text("wrong words, 7 pumps")
    outcome = desk.sign("a")
    assert outcome.exit_code == 2
    assert "bad_key" in outcome.output
    stranger = Desk(desk.folder)
    (desk.folder / "box.json").write_bytes(desk.case.box.render())
    desk.ask(desk.case.request)
    outcome = stranger.sign("a")
    assert outcome.exit_code == 4
    assert "no operator's of this box" in outcome.output
    assert not desk.release.exists()


def test_verify_refuses_what_is_not_theirs(desk: Desk) -> None:
    """Another box, a damaged signature, another request; and a file that is none."""
    assert desk.sign("a").exit_code == 0
    assert desk.sign("b").exit_code == 0
    good = Release.parse(desk.release.read_bytes())
    first, second = good.signatures
    other = replace(desk.case.request, pcrs={**PCRS, 7: bytes(32)})
    desk.ask(other)
    assert desk.run("verify", "--request", str(desk.folder / "request.json")).exit_code == 4
    for bad in (
        replace(good, device=bytes(32)),
        replace(good, counter=8),
        replace(good, signatures=(first, replace(second, document=first.document))),
        replace(good, signatures=(replace(first, fresh=first.again),)),
        replace(good, signatures=(first, first)),
    ):
        desk.release.write_bytes(bad.render())
        outcome = desk.run("verify")
        assert outcome.exit_code == 4
        assert "bad_release" in outcome.output
    desk.release.write_bytes(b"{}")
    assert desk.run("verify").exit_code == 4
    desk.release.unlink()
    assert desk.run("verify").exit_code == 2


def test_show_tells_the_three_documents_apart(desk: Desk) -> None:
    """With and without the box file; a file that is none of them is refused."""
    assert desk.sign("a").exit_code == 0
    shown = {}
    for name in ("request.json", "box.json", "release.json"):
        outcome = CliRunner().invoke(cli, ["release", "show", str(desk.folder / name), "--output", "json"])
        assert outcome.exit_code == 0, outcome.output
        shown[name] = json.loads(outcome.stdout)
    assert [values["document"] for values in shown.values()] == ["request", "enrolled box", "release"]
    assert shown["release.json"]["signed_by"] == [{"operator": 1, "name": None, "good": None}]
    assert shown["box.json"]["operators"] == [name.hex() for name in desk.case.box.policy.operators.names]
    outcome = CliRunner().invoke(cli, ["release", "show", str(desk.release)])
    assert "not checked" in outcome.output
    assert "operator 1" in desk.run("show").output
    assert CliRunner().invoke(cli, ["release", "show", str(desk.folder / "words")]).exit_code == 2


class Keeper:
    """A keeper's answers, as far as a request needs them."""

    def __init__(self, case: Case) -> None:
        self._case = case

    async def status(self) -> KeeperStatus:
        """Latched."""
        return KeeperStatus(KeeperState.LATCHED, "swtpm", ZONE, 7, None, 0, {}, 0, 0)

    async def describe(self) -> BoxDescription:
        """The device reference stands in the policy."""
        return BoxDescription(b"", b"", b"", b"", self._case.box.birth.render(), b"", b"")

    async def certify(self, nonce: bytes) -> Certified:
        """The counter, certified over the nonce."""
        return Certified(Attestation(b"", b""), self._case.certified(statement(7, nonce)))

    async def quote(self, nonce: bytes) -> Quote:
        """The PCRs; nobody looks at the signature."""
        return Quote(Attestation(nonce, b""), {**PCRS, 0: bytes(32)}, b"", b"")


async def test_a_box_writes_its_request() -> None:
    """The one that operators sign."""
    case = Case.make()
    keeper: Any = Keeper(case)
    port: KeeperPort = keeper
    request = await request_of(port, EVIDENCE)
    assert replace(request, certificate=case.request.certificate) == case.request
    assert ReleaseRequest.parse(request.render()) == request
