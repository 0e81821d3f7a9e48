# SPDX-License-Identifier: Apache-2.0
"""Other operators for a box that runs: the keeper makes a new key, enrols it by its second socket, and switches."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.keys.certificates import certificate_der, certify_request
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.keeper.box import Box
from appliance.keys.keeper.client import KeeperClient
from appliance.keys.keeper.installed import DeviceCa
from appliance.keys.keeper.port import KeeperState
from appliance.keys.keeper.succession import reseal
from appliance.keys.keeper.successor import successor_socket
from appliance.keys.release import ReleaseRequest, add_signature, certified_counter, new_release
from appliance.keys.tpm.identity import spki_pem
from appliance.keys.tpm.policy import BOUND_PCRS, COUNTER_INDEX
from appliance.keys.tpm.public import p256_key, sha256
from tests.keepers import PEOPLE, PLANT, KeeperProcess, Site, running_keeper
from tests.tpm import people, software_tpm

EVIDENCE = sha256(b"evidence")
CAROL = people(2)[0][0]
ALICE, BOB = PEOPLE
SECRET = b"a secret of the boundary"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A box of Alice and Bob."""
    with software_tpm(tmp_path / "tpm") as tpm:
        yield Site(tmp_path / "site", tpm.tcti)


def obey(site: Site, *persons: ec.EllipticCurvePrivateKey) -> None:
    """Write these operators into the configuration."""
    (site.folder / "operators.pem").write_text("".join(spki_pem(person.public_key()) for person in persons))


def following(site: Site) -> KeeperClient:
    """The key that waits."""
    return KeeperClient(successor_socket(site.socket))


async def ready(keeper: KeeperClient) -> None:
    """Wait until it has sessions."""
    with trio.fail_after(10):
        while (await keeper.status()).state is not KeeperState.READY:  # noqa: ASYNC110 - it is another process
            await trio.sleep(0.05)


async def release_of(keeper: KeeperClient, *persons: ec.EllipticCurvePrivateKey) -> bytes:
    """What these persons sign against the box as it is; whether they may is not asked of them."""
    described = await keeper.describe()
    birth, key = BirthPolicy.parse(described.policy), p256_key(described.ak_public)
    box = EnrolledBox(PLANT, birth, described.boundary_public, key)
    certificate, pcrs = (await keeper.certify(EVIDENCE)).counter, (await keeper.quote(EVIDENCE)).pcrs
    counter = certified_counter(certificate.statement, EVIDENCE)
    bound = {pcr: pcrs[pcr] for pcr in BOUND_PCRS}
    request = ReleaseRequest(PLANT, birth.policy.device, counter, bound, EVIDENCE, certificate)
    release = new_release(box, request)
    for person in persons:
        release = add_signature(box, request, release, person)
    return release.render()


def issuer(path: Path) -> bytes:
    """The device CA in a session's file."""
    return certificate_der(x509.load_pem_x509_certificates(path.read_bytes())[1])


def change(site: Site, process: KeeperProcess) -> None:
    """Alice and Carol take over from Alice and Bob."""

    async def before() -> bytes:
        await site.enrol()
        await site.tell_time()
        await site.client.seal("agent.token", SECRET)
        with pytest.raises(UnavailableError, match="no_successor"):
            await following(site).describe()
        return issuer((await site.client.session("agent")).path)

    async def after() -> None:
        keeper, waiting = site.client, following(site)
        await ready(keeper)
        assert "successor_waits" in (await keeper.status()).problem
        assert (await waiting.status()).state is KeeperState.NOT_ENROLLED
        old, new = await keeper.describe(), await waiting.describe()
        assert (old.ek_public, old.ak_public) == (new.ek_public, new.ak_public)
        assert old.boundary_public != new.boundary_public
        assert issuer((await keeper.session("agent")).path) == first
        for refused in (waiting.session("agent"), waiting.sign(b"bsfg.v1 receipt\n"), waiting.latch(EVIDENCE)):
            with pytest.raises((DeniedError, UnavailableError), match=r"caller_denied|not_enrolled"):
                await refused
        with pytest.raises(DeniedError, match="bad_certificate"):
            await waiting.install(first)  # of the old key
        certificate = await site.enrol(waiting)
        await ready(keeper)
        assert issuer((await keeper.session("agent")).path) == certificate_der(certificate) != first
        assert await keeper.unseal("agent.token") == SECRET
        assert (await keeper.describe()).boundary_public == new.boundary_public
        with pytest.raises(UnavailableError, match="no_successor"):
            await waiting.describe()

    first = trio.run(before)
    obey(site, ALICE, CAROL)
    process.restart()
    trio.run(after)


def test_operators_are_changed_without_a_gap(site: Site) -> None:
    """The old key issues sessions until the new one does; afterwards only the new operators release the box."""
    with running_keeper(site) as process:
        change(site, process)

        async def quarantined() -> None:
            keeper = site.client
            await keeper.latch(EVIDENCE)
            with pytest.raises(DeniedError, match="bad_release"):
                await release_of(keeper, ALICE, BOB)
            await keeper.import_release(await release_of(keeper, CAROL, ALICE))
            await ready(keeper)
            assert await keeper.unseal("agent.token") == SECRET

        trio.run(quarantined)
        process.restart()
        with pytest.raises(UnavailableError, match="no_successor"):
            trio.run(following(site).describe)


def test_a_quarantined_box_gets_no_new_key(site: Site) -> None:
    """It must be released by the operators it has; then the change goes on by itself at the next start."""
    with running_keeper(site) as process:

        async def before() -> None:
            await site.enrol()
            await site.tell_time()
            await site.client.latch(EVIDENCE)

        async def latched() -> None:
            with pytest.raises(UnavailableError, match="no_successor"):
                await following(site).describe()
            assert (await site.client.status()).state is KeeperState.LATCHED
            await site.client.import_release(await release_of(site.client, ALICE, BOB))

        trio.run(before)
        obey(site, ALICE, CAROL)
        process.restart()
        trio.run(latched)
        process.restart()
        assert trio.run(following(site).describe).boundary_public
        obey(site, ALICE, BOB)  # they think better of it
        process.restart()
        with pytest.raises(UnavailableError, match="no_successor"):
            trio.run(following(site).describe)


@pytest.mark.parametrize("step", range(5))
def test_cut_short_between_any_two_steps(site: Site, step: int) -> None:
    """The box has one key, its certificate and its secret, whichever key it is."""

    def opened() -> tuple[Box, DeviceCa]:
        box, device_ca = Box.open(site.config, lambda _: None), DeviceCa(site.config)
        device_ca.load(box.identity.public_key)
        return box, device_ca

    def certified(box: Box) -> bytes:
        request = x509.load_der_x509_csr(box.certificate_request(PLANT))
        return certificate_der(certify_request(site.hub_ca, PLANT, request, datetime.now(UTC)))

    site.config.state_dir.mkdir()
    box, device_ca = opened()
    device_ca.install(certified(box), box.identity.public_key)
    box.seal("agent.token", SECRET)
    box.close()
    obey(site, ALICE, CAROL)
    box, device_ca = opened()
    successor = box.needed_successor()
    old, new = box.identity, successor.identity
    folder = site.config.state_dir
    if step >= 1:
        device_ca.prepare(certified(successor), new.public_key)
    if step >= 2:
        reseal(box._device, box._key, successor._key, folder)
    if step >= 3:
        (folder / "boundary-key.next.json").replace(folder / "boundary-key.json")
    if step >= 4:
        box.close()
        box, device_ca = opened()
    box.close()
    box, device_ca = opened()
    assert box.identity == (new if step >= 3 else old)
    assert device_ca.needed().public_key() == box.identity.public_key
    assert box.unseal("agent.token") == SECRET
    assert (box.successor is None) == (step >= 3)
    if step < 3:
        device_ca.prepare(certified(box.needed_successor()), new.public_key)
        box.succeed()
        device_ca.load(box.identity.public_key)
        assert box.unseal("agent.token") == SECRET
    assert box.identity == new
    assert device_ca.needed().public_key() == new.public_key
    assert sorted(box._device.handles(0x01000000))[-2:] == sorted([COUNTER_INDEX, new.policy.release_index])
    assert [path.name for path in folder.glob("sealed*")] == ["sealed"]
    box.close()
    with pytest.raises(BsfgError, match="no_successor"):
        box.needed_successor()
