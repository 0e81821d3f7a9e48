# SPDX-License-Identifier: Apache-2.0
"""Enrolment with real software TPMs, keepers and the command line: by network, and on a stick."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.hub.enrolment.office import EnrolmentOffice
from appliance.hub.enrolment.service import EnrolmentService
from appliance.hub.trust import AttestationBook, AttestationPolicy, TrustHooks, TrustService
from appliance.keys.certificates import (
    certificate_der,
    certificate_pem,
    certify_device_ca,
    check_device_ca,
    new_hub_ca,
)
from appliance.keys.enrolment.credential import make_credential
from appliance.keys.enrolment.tpm_authority import open_tpm_authority
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.port import KeeperState
from appliance.keys.operators import new_operator_key
from appliance.keys.registry import Registry
from appliance.keys.tpm.boundary_key import BoundaryKey
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.endorsement import (
    CERTIFICATE_INDEX,
    EndorsementKind,
    activate_credential,
    endorsement_key,
    read_endorsement,
)
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.manufacture import make_software_tpm
from appliance.keys.tpm.policy import counter_public
from appliance.keys.tpm.provisioning import provision
from appliance.keys.tpm.public import NvAttribute, NvPublic, name_of, sha256
from appliance.keys.tpm.simulated_boot import simulate_boot, simulated_signatures
from appliance.peer.trust_client import TrustClient, trust_client_context
from appliance.peer.trust_server import TrustServerConfig, serve_trust, trust_server_context
from tests.boxes import VENDOR
from tests.keepers import HUB, PLANT, Site, running_keeper
from tests.tpm import SoftwareTpm, image_key, people, software_tpm

PASSPHRASE = "correct horse battery staple"


@pytest.fixture(scope="module")
def vendor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One simulated TPM vendor for all TPMs here."""
    return tmp_path_factory.mktemp("vendor") / "ca"


@pytest.fixture(scope="module")
def tpms(tmp_path_factory: pytest.TempPathFactory, vendor: Path) -> Iterator[list[SoftwareTpm]]:
    """Three TPMs that the vendor certified: of the hub, of a plant, and of a thief."""
    with ExitStack() as stack:
        folders = [tmp_path_factory.mktemp(name) for name in ("hub", "plant", "thief")]
        yield [stack.enter_context(software_tpm(make_software_tpm(folder, vendor).state)) for folder in folders]


# -- the TPM alone -----------------------------------------------------------------------------------------------------


def test_a_software_tpm_is_made_once(tmp_path: Path, vendor: Path) -> None:
    """Whole or not at all; another call changes nothing."""
    (tmp_path / ".making-old").mkdir()
    made = make_software_tpm(tmp_path, vendor)
    before = {path: path.read_bytes() for path in made.state.iterdir()}
    assert before
    assert make_software_tpm(tmp_path, vendor) == made
    assert {path: path.read_bytes() for path in made.state.iterdir()} == before
    assert list(tmp_path.glob(".making*")) == []
    assert made.vendor_cas.count(b"BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize("kind", EndorsementKind)
def test_what_we_hide_the_right_tpm_opens(tpms: list[SoftwareTpm], kind: EndorsementKind) -> None:
    """TPM2_MakeCredential on plain cryptography: one TPM, one attestation key, no other."""
    secret = bytes(range(32))
    with Device(tpms[1].tcti) as device:
        device.ensure_srk()
        public = read_endorsement(device, kind).public
        with device.attestation_key() as (_, ak_public):
            pass
        made = make_credential(endorsement_key(public), name_of(ak_public), b"")
        assert activate_credential(device, kind, made.blob, made.seed) == b""
        made = make_credential(endorsement_key(public), name_of(ak_public), b"x")
        assert activate_credential(device, kind, made.blob, made.seed) == b"x"
        other = make_credential(endorsement_key(public), name_of(ak_public + b"x"), secret)
        for blob, seed in ((other.blob, other.seed), (made.blob[:-1] + b"x", made.seed)):
            with pytest.raises(BsfgError) as refused:
                activate_credential(device, kind, blob, seed)
            assert refused.value.reason is Reason.TPM_REFUSED
        good = make_credential(endorsement_key(public), name_of(ak_public), secret)
        assert activate_credential(device, kind, good.blob, good.seed) == secret
        assert device.handles(0x80000000) == []
    with Device(tpms[2].tcti) as device:
        device.ensure_srk()
        with pytest.raises(BsfgError) as refused:
            activate_credential(device, kind, good.blob, good.seed)
        assert refused.value.reason in {Reason.TPM_REFUSED, Reason.TPM_FAULT}


def test_a_certificate_of_another_key_is_noticed_in_the_box(tpms: list[SoftwareTpm]) -> None:
    """An ECC certificate in NV, padded as vendors do: of this key, then of another."""
    index = CERTIFICATE_INDEX[EndorsementKind.ECC_P256]
    attributes = NvAttribute.AUTHREAD | NvAttribute.AUTHWRITE | NvAttribute.NO_DA
    with Device(tpms[2].tcti) as device:
        device.ensure_srk()
        key = endorsement_key(read_endorsement(device, EndorsementKind.ECC_P256).public)
        good = VENDOR.certify(key)
        bad = VENDOR.certify(ec.generate_private_key(ec.SECP256R1()).public_key())
        try:
            for certificate in (good, bad):
                device.nv_define(NvPublic(index, attributes, 1000))
                padded = certificate + b"\xff" * (1000 - len(certificate))
                device.nv_write(index, padded)
                if certificate is good:
                    assert read_endorsement(device, EndorsementKind.ECC_P256).certificate == good
                    assert read_endorsement(device).kind is EndorsementKind.RSA_2048
                    device.nv_undefine(index)
            with pytest.raises(BsfgError) as refused:
                read_endorsement(device, EndorsementKind.ECC_P256)
            assert refused.value.reason is Reason.EK_MISMATCH
        finally:
            device.nv_undefine(index)
    assert counter_public().index != index


def test_a_hub_ca_in_the_tpm(tmp_path: Path) -> None:
    """It signs device CAs as one in a file does, is the same after a restart, and is latched with the boundary key."""
    builder, (_, operators) = image_key(), people(2)
    now = datetime.now(UTC)
    with software_tpm(tmp_path / "tpm") as tpm, Device(tpm.tcti) as device:
        simulate_boot(device)
        identity = provision(device, tmp_path, operators, builder.public_key())
        images = ImageSignatures.parse(simulated_signatures(builder), builder.public_key())
        boundary = BoundaryKey(device, identity, images, tmp_path)
        opened = [open_tpm_authority(device, identity, images, tmp_path, HUB, now) for _ in range(2)]
        assert opened[0].certificate == opened[1].certificate
        key = ec.generate_private_key(ec.SECP256R1()).public_key()
        check_device_ca(opened[0].certificate, PLANT, certify_device_ca(opened[1], PLANT, key, now))
        assert identity.public_key != opened[0].certificate.public_key()
        boundary.latch(sha256(b"evidence"))
        with pytest.raises(BsfgError) as refused:
            certify_device_ca(opened[1], PLANT, key, now)
        assert refused.value.reason is Reason.KEY_LATCHED
        (tmp_path / "hub-ca.pem").write_bytes(certificate_pem(new_hub_ca(now).certificate))
        with pytest.raises(BsfgError) as refused:
            open_tpm_authority(device, identity, images, tmp_path, HUB, now)
        assert refused.value.reason is Reason.TPM_ALTERED


# -- with keepers ------------------------------------------------------------------------------------------------------


@dataclass
class World:
    """A hub's keeper and office, a plant's keeper, and a thief's."""

    folder: Path
    hub: Site
    plant: Site
    thief: Site

    def bsfg(self, *arguments: str | Path, code: int = 0) -> Any:
        """Run a command; its JSON, or its error."""
        done = CliRunner().invoke(cli, [*map(str, arguments), "--output", "json"])
        assert done.exit_code == code, (arguments, done.output)
        if done.stdout:
            return json.loads(done.stdout)
        errors = [line for line in done.stderr.splitlines() if line.startswith("{")]
        return json.loads(errors[-1])["error"] if errors else None

    @property
    def office(self) -> Path:
        """The office's folder."""
        return self.folder / "office"

    def box(self, site: Site) -> list[str | Path]:
        """The options of a box's commands."""
        return ["--keeper", site.socket, "--pki", site.folder / "pki"]

    def fingerprint(self, site: Site) -> str:
        """Of a box's TPM."""
        shown = self.bsfg("enrol", "fingerprint", "--keeper", site.socket)
        assert shown["certified"]
        return str(shown["fingerprint"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tpms: list[SoftwareTpm], vendor: Path) -> Iterator[World]:
    """A hub that enrolled itself, made by the command line."""
    folder = tmp_path_factory.mktemp("world")
    sites = [
        Site(folder / name, tpm.tcti, zone)
        for name, tpm, zone in zip(("hub", "plant", "thief"), tpms, (HUB, PLANT, PLANT), strict=True)
    ]
    (folder / "passphrase").write_text(PASSPHRASE)
    new_operator_key(folder / "admitter.key", PASSPHRASE)
    for site in sites:
        (site.folder / "pki/hub-ca.pem").unlink()
    with ExitStack() as stack:
        for site in sites:
            stack.enter_context(running_keeper(site))
        made = World(folder, *sites)
        hub = made.hub
        made.bsfg(
            *("hub", "init", "--office", made.office, "--zone", HUB, "--pki", hub.folder / "pki"),
            *("--vendor", vendor / "vendor-cas.pem", "--release-operator", hub.folder / "operators.pem"),
            *("--enrolment-operator", folder / "admitter.key.pub", "--image-key", hub.folder / "image.pem"),
            *("--keeper", hub.socket),
        )
        for site in sites[1:]:
            (site.folder / "pki/hub-ca.pem").write_bytes((hub.folder / "pki/hub-ca.pem").read_bytes())
        yield made


def test_enrolment_on_a_stick_with_a_voucher(world: World, tmp_path: Path) -> None:
    """The thief's TPM gets nothing for the stolen voucher; the box it names is enrolled, replaced and refused."""
    office: list[str | Path] = ["--office", world.office]
    voucher = tmp_path / "voucher.json"
    key: list[str | Path] = ["--key", world.folder / "admitter.key", "--passphrase-file", world.folder / "passphrase"]
    named = ["--zone", PLANT, "--fingerprint", world.fingerprint(world.plant)]
    world.bsfg("operator", "voucher", voucher, *named, *key)
    assert world.bsfg("hub", "voucher", voucher, *office)["good"] == "yes"

    def carry(site: Site, *papers: str | Path, code: int = 0) -> Any:
        """All four documents; what the last command says."""
        files = [tmp_path / f"{site.folder.name}-{number}" for number in range(4)]
        world.bsfg("enrol", "request", *world.box(site), *papers, "--out", files[0])
        answered = world.bsfg("hub", "answer", files[0], *office, "--out", files[1], code=code)
        if code:
            return answered
        assert answered["answer"] == "challenge"
        world.bsfg("enrol", "answer", files[1], *world.box(site), "--out", files[2])
        world.bsfg("hub", "answer", files[2], *office, "--out", files[3])
        return world.bsfg("enrol", "answer", files[3], *world.box(site))

    assert carry(world.thief, "--voucher", voucher, code=4)["answer"] == "refusal"
    told = world.bsfg("enrol", "answer", tmp_path / "thief-1", *world.box(world.thief), code=4)
    assert told["reason"] == "voucher_foreign"
    assert world.bsfg("enrol", "status", "--keeper", world.plant.socket, code=3)["enrolled"] == "no"
    assert carry(world.plant, "--voucher", voucher)["state"] == "enrolled"
    assert world.bsfg("enrol", "status", "--keeper", world.plant.socket)["enrolled"] == "yes"
    plants, hubs = (Registry.load(PkiFolder(site.folder / "pki")) for site in (world.plant, world.hub))
    assert plants.device_cas == hubs.device_cas
    assert set(plants.device_cas) == {PLANT, HUB}
    assert carry(world.plant, "--voucher", voucher)["state"] == "enrolled", "again changes nothing"
    states = {box["zone"]: box["state"] for box in world.bsfg("hub", "boxes", "list", *office)}
    assert states == {HUB: "enrolled", PLANT: "enrolled"}
    box_file = tmp_path / "box.json"
    world.bsfg("hub", "boxes", "export", PLANT, *office, "--out", box_file)
    assert b"bsfg-enrolled-box-1" in box_file.read_bytes()
    world.bsfg("hub", "revoke", PLANT, *office, "--reason", "stolen", "--yes")
    assert carry(world.plant, code=4)["answer"] == "refusal"
    told = world.bsfg("enrol", "answer", tmp_path / "plant-1", *world.box(world.plant), code=4)
    assert (told["reason"], told["detail"]) == ("box_revoked", "it was zone plant-a")
    hubs = Registry.load(PkiFolder(world.hub.folder / "pki"))
    assert all(hubs.denial(der) is not None for der in hubs.authorities(PLANT))
    assert all(hubs.denial(der) is None for der in hubs.authorities(HUB))


async def test_enrolment_by_network_with_an_approval(world: World, tmp_path: Path) -> None:
    """Over the trust service: it waits, is approved, is enrolled; gets the time; and issues sessions."""
    service = EnrolmentService(EnrolmentOffice(world.office))
    session = await world.hub.client.session("agent")
    hooks = TrustHooks(world.hub.client.sign, service.enrol, service.enrolled)
    trust = TrustService(HUB, hooks, AttestationBook(AttestationPolicy.OBSERVE))
    async with trio.open_nursery() as nursery:
        config = TrustServerConfig("127.0.0.1", 0, partial(trust_server_context, session.path))
        port = await nursery.start(serve_trust, trust, config)
        site = world.thief  # honest this time: another TPM for another box
        run = ["enrol", "run", *world.box(site), "--hub", f"127.0.0.1:{port}", "--hub-zone", HUB]

        async def bsfg(*arguments: str | Path, code: int = 0) -> Any:
            return await trio.to_thread.run_sync(partial(world.bsfg, *arguments, code=code))

        waiting = await bsfg(*run, code=3)
        assert (waiting["state"], waiting["waits for"]) == ("pending", "approval")
        (pending,) = await bsfg("hub", "pending", "--office", world.office)
        assert pending["fingerprint"] == await trio.to_thread.run_sync(world.fingerprint, site)
        await bsfg("hub", "approve", pending["fingerprint"][:12], "--office", world.office)
        assert (await bsfg(*run))["state"] == "enrolled"
        client = TrustClient(HUB, "127.0.0.1", port, partial(trust_client_context, site.folder / "pki/hub-ca.pem"))
        await site.client.set_time(await client.get_time(await site.client.time_nonce()))
        assert (await site.client.status()).state is KeeperState.READY
        issued = await site.client.session("agent")
        assert issued.path.exists()
        service.refresh()
        assert service.enrolled(ZoneId(PLANT)) is not None
        nursery.cancel_scope.cancel()
    own = Registry.load(PkiFolder(site.folder / "pki")).device_cas[PLANT][-1]
    assert EnrolmentOffice(world.office).of_zone(PLANT).device_ca == certificate_der(own)  # type: ignore[union-attr]
