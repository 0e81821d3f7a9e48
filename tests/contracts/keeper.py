# SPDX-License-Identifier: Apache-2.0
"""What every keeper does: the contract suite of :class:`KeeperPort`."""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, identity_of
from appliance.keys.certificates import certificate_der, check_device_ca, new_device_ca
from appliance.keys.enrolled_box import EnrolledBox
from appliance.keys.enrolment.birth import BirthPolicy
from appliance.keys.enrolment.csr import in_one_form, request_builder
from appliance.keys.keeper.port import QUOTED_PCRS, KeeperPort, KeeperState
from appliance.keys.operators import verifies
from appliance.keys.release import Release, ReleaseRequest, add_signature, certified_counter, new_release
from appliance.keys.tpm.policy import BOUND_PCRS
from appliance.keys.tpm.public import Digest, name_of, p256_key, sha256, sized
from tests.keepers import HUB, PEOPLE, PLANT, Site

RECEIPT = b"bsfg.v1 receipt\nzone plant-a\n"
NONCE = bytes(range(32))
EVIDENCE = sha256(b"evidence")


@dataclass(frozen=True, slots=True)
class World:
    """A keeper that is not enrolled yet, with its surroundings."""

    keeper: KeeperPort
    site: Site

    async def ready(self) -> KeeperPort:
        """The keeper, enrolled, and told the time."""
        await self.site.enrol(self.keeper)
        await self.site.tell_time(self.keeper)
        assert (await self.keeper.status()).state is KeeperState.READY
        return self.keeper

    async def enrolled_box(self) -> EnrolledBox:
        """What operators keep of the box."""
        told = await self.keeper.describe()
        return EnrolledBox(PLANT, BirthPolicy.parse(told.policy), told.boundary_public, p256_key(told.ak_public))

    async def release(self, signers: tuple[int, ...] = (0, 1)) -> Release:
        """A release for the keeper as it is now."""
        box = await self.enrolled_box()
        certificate = (await self.keeper.certify(EVIDENCE)).counter
        quoted = (await self.keeper.quote(EVIDENCE)).pcrs
        counter = certified_counter(certificate.statement, EVIDENCE)
        pcrs = {pcr: quoted[pcr] for pcr in BOUND_PCRS}
        request = ReleaseRequest(PLANT, box.policy.device, counter, pcrs, EVIDENCE, certificate)
        release = new_release(box, request, accept_pcrs=True)
        for signer in signers:
            release = add_signature(box, request, release, PEOPLE[signer], accept_pcrs=True)
        return release


class KeeperContract:
    """Subclass it with a fixture ``world``."""

    async def test_before_enrolment_it_has_a_key_and_no_certificate(self, world: World) -> None:
        """What proves the box works, what needs the hub's word does not."""
        keeper = world.keeper
        status = await keeper.status()
        assert (status.state, status.zone, status.sessions) == (KeeperState.NOT_ENROLLED, PLANT, {})
        for call in (keeper.session("agent"), keeper.sign(RECEIPT)):
            with pytest.raises(UnavailableError, match="not_enrolled"):
                await call
        await keeper.quote(NONCE)
        await keeper.certify(NONCE)

    async def test_only_its_own_certificate_is_taken(self, world: World) -> None:
        """Not nonsense, not one for another key, another zone, or of another hub."""
        keeper, site = world.keeper, world.site
        other_key = new_device_ca(site.hub_ca, PLANT, datetime.now(UTC)).certificate
        for wrong in (b"", b"\x30\x03", certificate_der(other_key)):
            with pytest.raises(DeniedError, match="bad_certificate"):
                await keeper.install(wrong)
        other_zone = Site(site.folder / "other-zone", "swtpm:", ZoneId("plant-b"), hub=site.hub_ca)
        other_hub = Site(site.folder / "other-hub", "swtpm:")
        for stranger in (other_zone, other_hub):
            with pytest.raises(DeniedError, match="bad_certificate"):
                await stranger.enrol(keeper)
        assert (await keeper.status()).state is KeeperState.NOT_ENROLLED
        certificate = await site.enrol(keeper)
        assert (await keeper.sign(RECEIPT)).certificate == certificate_der(certificate)

    async def test_sessions_wait_for_the_time(self, world: World) -> None:
        """Receipts do not."""
        await world.site.enrol(world.keeper)
        assert (await world.keeper.status()).state is KeeperState.TIME_UNKNOWN
        with pytest.raises(UnavailableError, match="time_unknown"):
            await world.keeper.session("agent")
        await world.keeper.sign(RECEIPT)

    async def test_time_comes_from_the_hub_alone(self, world: World) -> None:
        """Over a nonce, once; not from a stranger's key; and it is what the hub said."""
        keeper, site = world.keeper, world.site
        nonce = await keeper.time_nonce()
        stranger = new_device_ca(Site(site.folder / "x", "swtpm:").hub_ca, ZoneId("enterprise"), datetime.now(UTC))
        for wrong in (b"", site.token(bytes(32)), site.token(nonce, key=stranger)):
            with pytest.raises(DeniedError, match="bad_time_token"):
                await keeper.set_time(wrong)
        told = site.token(nonce := await keeper.time_nonce(), 1_900_000_000_000)
        assert 0 <= await keeper.set_time(told) - 1_900_000_000_000 < 5000
        with pytest.raises(DeniedError, match="bad_time_token"):
            await keeper.set_time(told)
        with pytest.raises(DeniedError, match="bad_time_token"):
            await keeper.set_time(site.token(await keeper.time_nonce(), 1_800_000_000_000))
        status = await keeper.status()
        assert status.boundary_offset_ns is not None
        boottime_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        assert abs((boottime_ns + status.boundary_offset_ns) / 1e9 - 1_900_000_000) < 10
        assert status.floor_unix_ms >= 1_900_000_000_000

    async def test_a_session_is_one_file_with_key_certificate_and_issuer(self, world: World) -> None:
        """Ten minutes, backdated five, one name; private; the same until it is due."""
        keeper = await world.ready()
        agent, control = await keeper.session("agent"), await keeper.session("control")
        assert agent.path != control.path
        assert agent == await keeper.session("agent")
        assert stat.S_IMODE(agent.path.stat().st_mode) == 0o600
        pem = agent.path.read_bytes()
        assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
        leaf, issuer = x509.load_pem_x509_certificates(pem)
        leaf.verify_directly_issued_by(issuer)
        issuer.verify_directly_issued_by(world.site.hub_ca.certificate)
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.DNSName(identity_of(PLANT))]
        assert leaf.not_valid_after_utc - leaf.not_valid_before_utc <= timedelta(minutes=15)
        assert (leaf.not_valid_after_utc.timestamp(), f"{leaf.serial_number:x}") == (agent.ends_at, agent.serial)
        with pytest.raises(BsfgError, match=r"bad_input|caller_denied"):
            await keeper.session("../agent")
        status = await keeper.status()
        assert status.sessions == {"agent": agent, "control": control}
        assert status.renewals == 2

    async def test_statements_are_signed_and_nothing_else(self, world: World) -> None:
        """By the key of the certificate; in one form."""
        keeper = await world.ready()
        for _ in range(4):  # each of them has an even chance to be in the other form
            signature = await keeper.sign(RECEIPT)
            key = x509.load_der_x509_certificate(signature.certificate).public_key()
            assert isinstance(key, ec.EllipticCurvePublicKey)
            assert verifies(key, RECEIPT, signature.value)
        for wrong in (b"", b"bsfg.v1", b"bsfg.v1 receipt", b"\x30\x82\x01\x00", b"bsfg.v1 RECEIPT\n"):
            with pytest.raises(RefusedError, match="bad_input"):
                await keeper.sign(wrong)

    async def test_secrets_are_kept_by_name(self, world: World) -> None:
        """Up to 128 bytes; replaced; unknown and unfit names are refused."""
        keeper = await world.ready()
        for secret in (b"\0", b"x" * 128):
            await keeper.seal("agent.token", secret)
            assert await keeper.unseal("agent.token") == secret
        for size in (0, 129):
            with pytest.raises(RefusedError, match="bad_input"):
                await keeper.seal("agent.token", bytes(size))
        with pytest.raises(RefusedError, match="unknown_secret"):
            await keeper.unseal("agent.other")
        for name in ("", "../x", "agent/x", "Agent", "agent..x", "a" * 65):
            with pytest.raises(RefusedError, match="bad_input"):
                await keeper.seal(name, b"x")
            with pytest.raises(RefusedError, match="bad_input"):
                await keeper.unseal(name)

    async def test_evidence_is_attested_over_the_nonce(self, world: World) -> None:
        """By one key, which the description names; of this key, this counter, these PCRs."""
        keeper = world.keeper
        told = await keeper.describe()
        quote, certified = await keeper.quote(NONCE), await keeper.certify(NONCE)
        for attestation in (quote.attestation, certified.key, certified.counter):
            p256_key(told.ak_public).verify(attestation.signature, attestation.statement, ec.ECDSA(hashes.SHA256()))
            assert sized(NONCE) in attestation.statement
        assert tuple(sorted(quote.pcrs)) == QUOTED_PCRS
        digest = sha256(b"".join(quote.pcrs[pcr] for pcr in QUOTED_PCRS))
        assert quote.attestation.statement.endswith(sized(digest))
        assert sized(name_of(told.boundary_public)) in certified.key.statement
        assert certified_counter(certified.counter.statement, Digest(NONCE)) == (await keeper.status()).counter
        assert BirthPolicy.parse(told.policy).is_of(told.boundary_public)
        for wrong in (b"", bytes(15), bytes(33)):
            for call in (keeper.quote(wrong), keeper.certify(wrong)):
                with pytest.raises(RefusedError, match="bad_input"):
                    await call

    async def test_a_credential_for_another_tpm_is_refused(self, world: World) -> None:
        """And the TPM goes on working."""
        with pytest.raises(DeniedError, match="tpm_refused"):
            await world.keeper.activate(sized(sized(bytes(32)) + bytes(34)), sized(b"\x11" * 256))
        await world.keeper.quote(NONCE)

    async def test_only_a_hubs_keeper_has_a_hub_ca(self, world: World) -> None:
        """A box that could certify zones would be everybody."""
        for call in (world.keeper.hub_ca(), world.keeper.certify_zone(PLANT, request_for(PLANT))):
            with pytest.raises(RefusedError, match="bad_input"):
                await call

    async def test_a_latch_holds_until_two_operators_release_it(self, world: World) -> None:
        """No session, no signature, no secret; evidence goes on; a second latch is the same latch."""
        keeper = await world.ready()
        await keeper.seal("agent.token", b"secret")
        session = await keeper.session("agent")
        before = (await keeper.status()).counter
        assert before is not None
        latched = await keeper.latch(EVIDENCE)
        assert latched.counter == before + 1
        assert certified_counter(latched.certificate.statement, EVIDENCE) == latched.counter
        assert (await keeper.latch(EVIDENCE)).counter == latched.counter
        assert (await keeper.status()).state is KeeperState.LATCHED
        assert not session.path.exists()
        for call in (keeper.sign(RECEIPT), keeper.session("agent"), keeper.unseal("agent.token")):
            with pytest.raises(DeniedError, match="key_latched"):
                await call
        await keeper.quote(NONCE)
        for signers in ((), (0,), (1,)):
            with pytest.raises(DeniedError, match="bad_release"):
                await keeper.import_release((await world.release(signers)).render())
        with pytest.raises(RefusedError, match="bad_release"):
            await keeper.import_release(b"{}")
        old = await world.release()
        assert (await keeper.certify(NONCE)).release == b""
        await keeper.import_release(old.render())
        assert (await keeper.certify(NONCE)).release == old.render()
        assert (await keeper.status()).state is KeeperState.READY
        await keeper.sign(RECEIPT)
        assert await keeper.unseal("agent.token") == b"secret"
        assert (await keeper.session("agent")).path.exists()
        assert (await keeper.latch(EVIDENCE)).counter == latched.counter + 1
        with pytest.raises(DeniedError, match="bad_release"):
            await keeper.import_release(old.render())
        with pytest.raises(DeniedError, match="key_latched"):
            await keeper.sign(RECEIPT)
        with pytest.raises(RefusedError, match="bad_input"):
            await keeper.latch(Digest(b"short"))


def request_for(zone: ZoneId) -> bytes:
    """A request of a zone's keeper, for a new key."""
    key = ec.generate_private_key(ec.SECP256R1())
    return in_one_form(request_builder(zone).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))


class HubKeeperContract:
    """Subclass it with a fixture ``hub``: the keeper of zone ``enterprise``."""

    async def test_it_certifies_zones_and_nothing_else(self, hub: World) -> None:
        """Each for its own name, and as a CA that has no CA below it; for the key of a request of that zone."""
        keeper = hub.keeper
        hub_ca = x509.load_der_x509_certificate(await keeper.hub_ca())
        assert hub_ca == x509.load_der_x509_certificate(await keeper.hub_ca())
        basic = hub_ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        assert (basic.ca, basic.path_length) == (True, 1)
        for zone in (PLANT, HUB):
            request = request_for(zone)
            made = x509.load_der_x509_certificate(await keeper.certify_zone(zone, request))
            check_device_ca(hub_ca, zone, made)
            assert made.public_key() == x509.load_der_x509_csr(request).public_key()
        own = await keeper.certificate_request()
        assert await keeper.certify_zone(HUB, own) != await keeper.certify_zone(HUB, own)

    async def test_a_request_that_is_no_zones_is_refused(self, hub: World) -> None:
        """Of another zone, damaged, of another kind of key, with wishes; and what is no zone."""
        good = request_for(PLANT)
        wishes = request_builder(PLANT).add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        wish = wishes.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        bad = [b"", b"\x30\x00", good[:-1], good[:-8] + bytes(8), good + b"\0", request_for(ZoneId("plant-b"))]
        bad += [
            in_one_form(wish.public_bytes(serialization.Encoding.DER)),
            certificate_der(hub.site.hub_ca.certificate),
        ]
        for request in bad:
            with pytest.raises(DeniedError, match="bad_proof"):
                await hub.keeper.certify_zone(PLANT, request)
        key = ec.generate_private_key(ec.SECP384R1())
        other = request_builder(PLANT).sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)
        with pytest.raises(DeniedError):
            await hub.keeper.certify_zone(PLANT, other)
        for zone in ("", "Plant A", "plant-a\n", "*"):
            with pytest.raises(RefusedError):
                await hub.keeper.certify_zone(ZoneId(zone), good)
        await hub.keeper.certify_zone(PLANT, good)

    async def test_a_latched_hub_certifies_nothing(self, hub: World) -> None:
        """Its CA is what it was, for all to see, and does not sign until two operators release the hub."""
        hub_ca = await hub.keeper.hub_ca()
        await hub.keeper.latch(EVIDENCE)
        with pytest.raises(DeniedError, match="key_latched"):
            await hub.keeper.certify_zone(PLANT, request_for(PLANT))
        assert await hub.keeper.hub_ca() == hub_ca
        await hub.keeper.import_release((await hub.release()).render())
        made = x509.load_der_x509_certificate(await hub.keeper.certify_zone(PLANT, request_for(PLANT)))
        check_device_ca(x509.load_der_x509_certificate(hub_ca), PLANT, made)
