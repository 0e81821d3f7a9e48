# SPDX-License-Identifier: Apache-2.0
"""A hub whose CA is in its TPM: made by the command line, signs through its keeper, and is latched with the hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner
from cryptography import x509

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.hub.enrolment.authority import KeeperAuthority
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.keys.certificates import certificate_der, check_device_ca, new_hub_ca
from appliance.keys.folder import PkiFolder
from appliance.keys.registry import Registry
from appliance.keys.tpm.manufacture import make_software_tpm
from appliance.keys.tpm.public import sha256
from tests.keepers import HUB, PLANT, KeeperProcess, Site, running_keeper
from tests.tpm import software_tpm


@dataclass
class World:
    """A hub's keeper and a plant's, each with a TPM of one vendor."""

    folder: Path
    hub: Site
    hub_keeper: KeeperProcess
    plant: Site

    @property
    def office(self) -> tuple[str, Path]:
        """The option that names it."""
        return "--office", self.folder / "office"

    def bsfg(self, *arguments: str | Path) -> Any:
        """What a command says; of one that fails, the reason."""
        done = CliRunner().invoke(cli, [*map(str, arguments), "--output", "json"])
        if done.exit_code == 0:
            return json.loads(done.stdout)
        errors = [line for line in done.stderr.splitlines() if line.startswith("{")]
        return json.loads(errors[-1])["error"]["reason"]

    def init(self, *options: str | Path, zone: str = HUB) -> Any:
        """Make the office."""
        hub = self.hub.folder
        given: list[str | Path] = ["--zone", zone, "--pki", hub / "pki"]
        given += ["--vendor", self.folder / "vendor/vendor-cas.pem"]
        given += ["--release-operator", hub / "operators.pem", "--image-key", hub / "image.pem"]
        return self.bsfg("hub", "init", *self.office, *given, *options)

    def enrol(self) -> Any:
        """All four documents of the plant's box on a stick; what the last command says."""
        files = [self.folder / f"document-{number}" for number in range(4)]
        box: list[str | Path] = ["--keeper", self.plant.socket, "--pki", self.plant.folder / "pki"]
        self.bsfg("enrol", "request", *box, "--out", files[0])
        self.bsfg("hub", "answer", files[0], *self.office, "--out", files[1])
        self.bsfg("enrol", "answer", files[1], *box, "--out", files[2])
        self.bsfg("hub", "answer", files[2], *self.office, "--out", files[3])
        return CliRunner().invoke(cli, [*map(str, ("enrol", "answer", files[3], *box)), "--output", "json"]).stdout


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Nothing is made yet but the boundary keys."""
    with ExitStack() as stack:
        sites = []
        for name, zone in (("hub", HUB), ("plant", PLANT)):
            made = make_software_tpm(tmp_path / f"tpm-{name}", tmp_path / "vendor")
            tpm = stack.enter_context(software_tpm(made.state))
            sites.append(Site(tmp_path / name, tpm.tcti, zone))
            (tmp_path / name / "pki/hub-ca.pem").unlink()
        keepers = [stack.enter_context(running_keeper(site)) for site in sites]
        yield World(tmp_path, sites[0], keepers[0], sites[1])


def test_the_hubs_tpm_certifies_zones(world: World) -> None:
    """Its own and a plant's, until it is latched; no key of the CA is ever in a file."""
    assert world.init("--authority", "tpm") == "bad_input", "it needs the keeper"
    assert world.init("--authority", "tpm", "--keeper", world.plant.socket) == "bad_input", "not a hub's"
    assert world.init("--authority", "tpm", "--keeper", world.hub.socket, zone="plant-b") == "bad_input", "another's"
    assert not (world.folder / "office/hub-ca.pem").exists()
    told = world.init("--authority", "tpm", "--keeper", world.hub.socket)
    assert (told["authority"], told["own zone"]) == ("tpm", "enrolled")
    assert world.init()["authority"] == "tpm", "it stays what it was made"
    office = EnrolmentOffice(world.office[1])
    assert not office.folder.authority.exists()
    hub_ca = x509.load_pem_x509_certificate(office.folder.hub_ca.read_bytes())
    assert certificate_der(hub_ca) == trio.run(world.hub.client.hub_ca)

    (world.plant.folder / "pki/hub-ca.pem").write_bytes((world.hub.folder / "pki/hub-ca.pem").read_bytes())
    fingerprint = world.bsfg("enrol", "fingerprint", "--keeper", world.plant.socket)["fingerprint"]
    world.bsfg("hub", "approve", fingerprint, "--zone", PLANT, *world.office)
    assert json.loads(world.enrol())["state"] == "enrolled"
    registries = [Registry.load(PkiFolder(site.folder / "pki")) for site in (world.hub, world.plant)]
    assert registries[0].device_cas == registries[1].device_cas
    assert set(registries[0].device_cas) == {HUB, PLANT}
    for zone, (certificate,) in registries[0].device_cas.items():
        check_device_ca(hub_ca, zone, certificate)
    assert world.bsfg("enrol", "status", "--keeper", world.plant.socket)["enrolled"] == "yes"

    box = office.of_zone(PLANT)
    assert box is not None
    assert box.record is not None
    now = datetime.now(UTC)
    with pytest.raises(DeniedError) as refused:
        KeeperAuthority(new_hub_ca(now).certificate, world.hub.socket).certify(box.record, now)
    assert refused.value.reason is Reason.BAD_CERTIFICATE, "another keeper's CA does not become this hub's"
    assert KeeperAuthority(hub_ca, world.hub.socket).certify(box.record, now) is not None

    trio.run(world.hub.client.latch, sha256(b"evidence"))
    world.bsfg("hub", "revoke", PLANT, "--yes", *world.office)
    world.bsfg("hub", "approve", fingerprint, "--zone", PLANT, *world.office)
    assert json.loads(world.enrol())["state"] == "pending"
    (waiting,) = world.bsfg("hub", "pending", *world.office)
    assert (waiting["zone"], waiting["waits_for"]) == (PLANT, "authority")
    assert world.bsfg("hub", "certify", *world.office) == "key_latched"
    assert len(Registry.load(PkiFolder(world.hub.folder / "pki")).device_cas[PLANT]) == 1
    assert office.of_zone(PLANT) is None

    world.hub_keeper.stop()
    assert world.bsfg("hub", "certify", *world.office) == "keeper_unavailable"
    assert len(world.bsfg("hub", "pending", *world.office)) == 1, "what needs no signature works without the keeper"


def test_a_passphrase_for_a_key_in_the_tpm_is_refused(world: World) -> None:
    """There is no file that it could protect, and no office that says there is."""
    (world.folder / "passphrase").write_text("correct horse battery staple")
    options: list[str | Path] = ["--encrypt", "--passphrase-file", world.folder / "passphrase"]
    assert world.init("--authority", "tpm", "--keeper", world.hub.socket, *options) == "bad_input"
    assert not (world.folder / "office/enrolment.toml").exists()
