# SPDX-License-Identifier: Apache-2.0
"""The whole ceremony by the commands: a keeper's process on a software TPM, its request, two operators, the import."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.port import KeeperState
from appliance.keys.release import Release
from appliance.keys.tpm.public import p256_key, sha256
from tests.keepers import PEOPLE, PLANT, Site, running_keeper
from tests.tpm import software_tpm

WORDS = "only an example, 7 pumps"
EVIDENCE = b"the evidence that the operators read"


class Ceremony:
    """A box, and the folder that its stick and its operators share."""

    def __init__(self, site: Site, folder: Path) -> None:
        self.site, self.folder = site, folder
        folder.mkdir()
        (folder / "evidence").write_bytes(EVIDENCE)
        (folder / "words").write_text(WORDS)
        encryption = serialization.BestAvailableEncryption(WORDS.encode())
        for name, key in zip("ab", PEOPLE, strict=True):
            text = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
            (folder / f"{name}.pem").write_bytes(text)

    async def enrol(self) -> None:
        """The hub signs, and its operator exports the box file."""
        await self.site.enrol()
        await self.site.tell_time()
        described = await self.site.client.describe()
        birth, key = BirthPolicy.parse(described.policy), p256_key(described.ak_public)
        (self.folder / "box.json").write_bytes(EnrolledBox(PLANT, birth, described.boundary_public, key).render())

    def run(self, *arguments: str) -> Result:
        """One command; the names of files are those of the folder."""
        files = {path.name: str(path) for path in self.folder.iterdir()}
        files |= {name: str(self.folder / name) for name in ("request.json", "release.json")}
        return CliRunner().invoke(cli, ["release", *(files.get(argument, argument) for argument in arguments)])

    def request(self) -> Result:
        """On the box."""
        return self.run("request", "request.json", "--keeper", str(self.site.socket), "--evidence", "evidence")

    def sign(self, who: str) -> Result:
        """At an operator's desk."""
        return self.run(
            *("sign", "release.json", "--box", "box.json", "--request", "request.json", "--evidence", "evidence"),
            *("--key", f"{who}.pem", "--passphrase-file", "words", "--yes"),
        )

    def bring_back(self) -> Result:
        """On the box."""
        return self.run("import", "release.json", "--keeper", str(self.site.socket), "--output", "json")


@pytest.fixture
def ceremony(tmp_path: Path) -> Iterator[Ceremony]:
    """An enrolled box that works."""
    with software_tpm(tmp_path / "tpm") as tpm:
        site = Site(tmp_path / "site", tpm.tcti)
        with running_keeper(site):
            found = Ceremony(site, tmp_path / "stick")
            trio.run(found.enrol)
            yield found


def state_of(keeper: KeeperClient) -> KeeperState:
    """What the keeper can do."""

    async def ask() -> KeeperState:
        return (await keeper.status()).state

    return trio.run(ask)


def latched(keeper: KeeperClient) -> int:
    """Latch; the counter."""

    async def latch() -> int:
        return (await keeper.latch(sha256(EVIDENCE))).counter

    return trio.run(latch)


def test_request_two_signatures_import(ceremony: Ceremony) -> None:
    """One operator is not enough for the keeper; with two it works, and after the next latch that file is useless."""
    keeper = ceremony.site.client
    assert state_of(keeper) is KeeperState.READY
    counter = latched(keeper)
    assert state_of(keeper) is KeeperState.LATCHED
    asked = ceremony.request()
    assert asked.exit_code == 0, asked.output
    assert f"counter   {counter}" in asked.output
    first = ceremony.sign("b")
    assert first.exit_code == 0, first.output
    refused = ceremony.bring_back()
    assert refused.exit_code == 4
    assert Reason.BAD_RELEASE in refused.output
    assert state_of(keeper) is KeeperState.LATCHED
    second = ceremony.sign("a")
    assert second.exit_code == 0, second.output
    done = ceremony.bring_back()
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"zone": "plant-a", "state": "ready", "counter": counter}
    assert trio.run(keeper.session, "agent").path.is_file()
    latched(keeper)
    assert ceremony.bring_back().exit_code == 4
    assert state_of(keeper) is KeeperState.LATCHED
    assert ceremony.sign("a").exit_code == 4  # the release is complete; and the request is of a counter gone by
    assert ceremony.request().exit_code == 0
    assert ceremony.sign("a").exit_code == 4  # it does not answer the new request


def test_another_box_refuses_it(ceremony: Ceremony, tmp_path: Path) -> None:
    """With the same operators, the same counter, the same PCRs: the device is in what they signed."""
    latched(ceremony.site.client)
    for outcome in (ceremony.request(), ceremony.sign("a"), ceremony.sign("b")):
        assert outcome.exit_code == 0, outcome.output
    data = (ceremony.folder / "release.json").read_bytes()
    with software_tpm(tmp_path / "other-tpm") as tpm:
        site = Site(tmp_path / "other", tpm.tcti)
        with running_keeper(site):
            other = Ceremony(site, tmp_path / "other-stick")
            trio.run(other.enrol)
            assert latched(site.client) == Release.parse(data).counter
            with pytest.raises(DeniedError, match="bad_release"):
                trio.run(site.client.import_release, data)
            (other.folder / "release.json").write_bytes(data)
            assert other.bring_back().exit_code == 4
            assert state_of(site.client) is KeeperState.LATCHED
            other.request()
            other.folder.joinpath("box.json").write_bytes((ceremony.folder / "box.json").read_bytes())
            other.folder.joinpath("release.json").unlink()
            assert other.sign("a").exit_code == 4  # a request that the box file does not know
    assert ceremony.bring_back().exit_code == 0


def test_no_keeper_is_said_to_be_none(tmp_path: Path) -> None:
    """With what to do about it; no file is left behind."""
    (tmp_path / "evidence").write_bytes(EVIDENCE)
    out = tmp_path / "request.json"
    arguments = ["request", str(out), "--keeper", str(tmp_path / "none.sock"), "--evidence", str(tmp_path / "evidence")]
    outcome = CliRunner().invoke(cli, ["release", *arguments])
    assert outcome.exit_code == 3
    assert "keeper_unavailable" in outcome.output
    assert not out.exists()
