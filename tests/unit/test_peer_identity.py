# SPDX-License-Identifier: Apache-2.0
"""Exactly one dNSName, equal to the constraint of the zone's registered device CA; the subject decides nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import Authority as Issuer
from appliance.keys.certificates import certify_device_ca
from appliance.peer.identity import PeerIdentity, prove_identity, recheck
from tests.contracts.peer import PLANT
from tests.pki import Authority, Credential, Pki, Registered

OTHER = ZoneId("plant-b")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """One hub CA for all."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def plant_ca(pki: Pki) -> Authority:
    """The device CA of PLANT."""
    return pki.device_ca(PLANT)


def registered(pki: Pki, *authorities: Authority) -> Registered:
    """With these device CAs of PLANT."""
    return Registered.of(pki.hub, {PLANT: authorities})


def denied(pki: Pki, credential: Credential, *authorities: Authority, now: float | None = None) -> Reason:
    """Why a certificate proves nothing, with these device CAs registered for PLANT."""
    registry = registered(pki, *authorities)
    with pytest.raises(DeniedError) as caught:
        prove_identity(credential.der, registry, time.time() if now is None else now)
    return caught.value.reason


def test_the_one_name_proves_the_zone(pki: Pki, plant_ca: Authority) -> None:
    """And says until when: the earlier end of certificate and device CA."""
    credential = pki.credential(plant_ca, "plant-a-bsfg", not_after=datetime.now(UTC) + timedelta(minutes=10))
    identity = prove_identity(credential.der, registered(pki, plant_ca), time.time())
    assert identity.zone == PLANT
    assert identity.ends_at == credential.certificate.not_valid_after_utc.timestamp()
    short = pki.device_ca(PLANT, not_after=datetime.now(UTC) + timedelta(minutes=5))
    outlives = pki.credential(short, "plant-a-bsfg")
    identity = prove_identity(outlives.der, registered(pki, short), time.time())
    assert identity.ends_at == short.certificate.not_valid_after_utc.timestamp()


def test_a_foreign_common_name_decides_nothing(pki: Pki, plant_ca: Authority) -> None:
    """The own name stands in the alternative names."""
    credential = pki.credential(plant_ca, "plant-a-bsfg", common_name="enterprise-bsfg")
    assert prove_identity(credential.der, registered(pki, plant_ca), time.time()).zone == PLANT


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("plant-a-bsfg", "plant-a-bsfg"),
        ("plant-a-bsfg", "plant-b-bsfg"),
        ("plant-a-bsfg", x509.UniformResourceIdentifier("spiffe://plant-a")),
        (x509.UniformResourceIdentifier("plant-a-bsfg"),),
        (x509.RFC822Name("plant-a-bsfg"),),
        ("x.plant-a-bsfg",),
        ("plant-a",),
        ("PLANT-A-BSFG",),
        ("all-bsfg",),
        ("*.plant-a-bsfg",),
    ],
    ids=str,
)
def test_other_names_prove_nothing(pki: Pki, plant_ca: Authority, names: tuple[str | x509.GeneralName, ...]) -> None:
    """None, two, another kind, a name below, a name that is no identity."""
    credential = pki.credential(plant_ca, *names, common_name="plant-a-bsfg")
    assert denied(pki, credential, plant_ca) == Reason.BAD_CERTIFICATE


def test_a_zone_nobody_registered_is_unknown(pki: Pki) -> None:
    """However good its chain."""
    other = pki.device_ca(OTHER)
    assert denied(pki, pki.credential(other, "plant-b-bsfg"), pki.device_ca(PLANT)) == Reason.UNKNOWN_PEER
    assert denied(pki, pki.credential(pki.device_ca(PLANT), "plant-a-bsfg")) == Reason.UNKNOWN_PEER


def test_only_the_registered_device_ca_speaks_for_a_zone(pki: Pki, plant_ca: Authority) -> None:
    """Not another zone's, not one with the same name and constraint, not the hub's."""
    imposter = pki.device_ca(PLANT)
    assert denied(pki, pki.credential(imposter, "plant-a-bsfg"), plant_ca) == Reason.BAD_CERTIFICATE
    assert denied(pki, pki.credential(pki.device_ca(OTHER), "plant-a-bsfg"), plant_ca) == Reason.BAD_CERTIFICATE
    assert denied(pki, pki.credential(pki.hub, "plant-a-bsfg"), plant_ca) == Reason.BAD_CERTIFICATE


def test_both_device_cas_of_a_renewal_count(pki: Pki, plant_ca: Authority) -> None:
    """The old and the new one."""
    renewed = pki.device_ca(PLANT)
    for issuer in (plant_ca, renewed):
        credential = pki.credential(issuer, "plant-a-bsfg")
        registry = registered(pki, plant_ca, renewed)
        assert prove_identity(credential.der, registry, time.time()).zone == PLANT


@pytest.mark.parametrize("permitted", [(), ("plant-b-bsfg",), ("bsfg",), ("plant-a-bsfg", "plant-b-bsfg")], ids=str)
def test_a_device_ca_that_is_not_constrained_to_the_zone_proves_nothing(pki: Pki, permitted: tuple[str, ...]) -> None:
    """Registered by mistake, it still must not speak for more than one."""
    loose = pki.device_ca(PLANT, permitted=permitted)
    assert denied(pki, pki.credential(loose, "plant-a-bsfg"), loose) == Reason.BAD_CERTIFICATE


def test_time_decides_by_the_clock_given(pki: Pki, plant_ca: Authority) -> None:
    """Before and after, for the certificate and for its device CA."""
    now = datetime.now(UTC)
    credential = pki.credential(
        plant_ca, "plant-a-bsfg", not_before=now - timedelta(minutes=5), not_after=now + timedelta(minutes=5)
    )
    prove_identity(credential.der, registered(pki, plant_ca), now.timestamp())
    for minutes in (-10, 10):
        at = (now + timedelta(minutes=minutes)).timestamp()
        assert denied(pki, credential, plant_ca, now=at) == Reason.BAD_CERTIFICATE
    short = pki.device_ca(PLANT, not_after=now + timedelta(minutes=1))
    outlives = pki.credential(short, "plant-a-bsfg")
    assert denied(pki, outlives, short, now=now.timestamp() + 120) == Reason.BAD_CERTIFICATE


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"noise"])
def test_noise_is_no_certificate(data: bytes) -> None:
    """A reason, not a crash."""
    with pytest.raises(DeniedError) as caught:
        prove_identity(data, Registered(None), time.time())
    assert caught.value.reason == Reason.BAD_CERTIFICATE


def test_an_ended_hub_ca_proves_nobody(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> None:
    """TLS does not look at its dates any more; and a proof never lasts longer than it."""
    now = datetime.now(UTC)
    young = Pki(tmp_path_factory.mktemp("young"))
    young.renew_hub(now + timedelta(minutes=2))
    authority, credential = young.zone(PLANT)
    identity = prove_identity(credential.der, registered(young, authority), now.timestamp())
    assert identity.ends_at == young.hub.certificate.not_valid_after_utc.timestamp()
    assert denied(young, credential, authority, now=now.timestamp() + 130) == Reason.BAD_CERTIFICATE


def test_a_long_session_proves_nothing(pki: Pki, plant_ca: Authority) -> None:
    """Somebody who had the boundary key for a moment must not have it for years; development may be told otherwise."""
    now = datetime.now(UTC)
    begin, end = now - timedelta(minutes=5), now + timedelta(minutes=16)
    credential = pki.credential(plant_ca, "plant-a-bsfg", not_before=begin, not_after=end)
    assert denied(pki, credential, plant_ca) == Reason.BAD_CERTIFICATE
    prove_identity(credential.der, registered(pki, plant_ca), now.timestamp(), float("inf"))


def test_a_denied_or_removed_device_ca_ends_a_proof(pki: Pki, plant_ca: Authority) -> None:
    """At the next look; and none is given."""
    credential, registry = pki.credential(plant_ca, "plant-a-bsfg"), registered(pki, plant_ca)
    now = time.time()
    identity = prove_identity(credential.der, registry, now)
    recheck(identity, registry, now)
    registry.denied[plant_ca.der] = "stolen"
    assert denied_again(identity, registry, now) == Reason.BOX_REVOKED
    with pytest.raises(DeniedError) as caught:
        prove_identity(credential.der, registry, now)
    assert (caught.value.reason, caught.value.detail) == (Reason.BOX_REVOKED, "stolen")
    assert denied_again(identity, registered(pki), now) == Reason.UNKNOWN_PEER
    assert denied_again(identity, registered(pki, plant_ca), identity.ends_at) == Reason.BAD_CERTIFICATE


def denied_again(identity: PeerIdentity, registry: Registered, now: float) -> Reason:
    """Why a proof does not hold any more."""
    with pytest.raises(DeniedError) as caught:
        recheck(identity, registry, now)
    return caught.value.reason


def test_a_key_that_was_certified_again_counts_by_its_newest_certificate(pki: Pki) -> None:
    """Whatever their order; the older one may have ended."""
    now = datetime.now(UTC)
    hub = Issuer(pki.hub.key, pki.hub.certificate)
    key = ec.generate_private_key(ec.SECP256R1())
    older, newer = (
        Authority(certify_device_ca(hub, PLANT, key.public_key(), now, timedelta(minutes=life)), key)
        for life in (5, 20)
    )
    credential = pki.credential(newer, "plant-a-bsfg")
    for authorities in ((older, newer), (newer, older)):
        identity = prove_identity(credential.der, registered(pki, *authorities), now.timestamp() + 400)
        assert identity.authority == newer.der
    assert denied(pki, credential, older, now=now.timestamp() + 400) == Reason.BAD_CERTIFICATE
    registry = registered(pki, older, newer)
    registry.denied[newer.der] = "sold"
    assert prove_identity(credential.der, registry, now.timestamp()).authority == older.der
    registry.denied[older.der] = "sold"
    with pytest.raises(DeniedError, match="sold"):
        prove_identity(credential.der, registry, now.timestamp())
