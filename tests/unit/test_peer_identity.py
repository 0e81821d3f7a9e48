# SPDX-License-Identifier: Apache-2.0
"""Exactly one dNSName, equal to the constraint of the zone's registered device CA; the subject decides nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.peer.identity import prove_identity
from tests.contracts.peer import HUB, PLANT
from tests.pki import Authority, Credential, Pki

OTHER = ZoneId("plant-b")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    """One hub CA for all."""
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def plant_ca(pki: Pki) -> Authority:
    """The device CA of PLANT."""
    return pki.device_ca(PLANT)


def denied(credential: Credential, *authorities: Authority, now: float | None = None) -> Reason:
    """Why a certificate proves nothing, with these device CAs registered for PLANT."""
    registry = {PLANT: [authority.der for authority in authorities]}
    with pytest.raises(DeniedError) as caught:
        prove_identity(credential.der, registry, time.time() if now is None else now)
    return caught.value.reason


def test_the_one_name_proves_the_zone(pki: Pki, plant_ca: Authority) -> None:
    """And says until when: the earlier end of certificate and device CA."""
    credential = pki.credential(plant_ca, "plant-a-bsfg", not_after=datetime.now(UTC) + timedelta(minutes=10))
    identity = prove_identity(credential.der, {PLANT: [plant_ca.der]}, time.time())
    assert identity.zone == PLANT
    assert identity.ends_at == credential.certificate.not_valid_after_utc.timestamp()
    short = pki.device_ca(PLANT, not_after=datetime.now(UTC) + timedelta(minutes=5))
    outlives = pki.credential(short, "plant-a-bsfg")
    identity = prove_identity(outlives.der, {PLANT: [short.der]}, time.time())
    assert identity.ends_at == short.certificate.not_valid_after_utc.timestamp()


def test_a_foreign_common_name_decides_nothing(pki: Pki, plant_ca: Authority) -> None:
    """The own name stands in the alternative names."""
    credential = pki.credential(plant_ca, "plant-a-bsfg", common_name="enterprise-bsfg")
    assert prove_identity(credential.der, {PLANT: [plant_ca.der]}, time.time()).zone == PLANT


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
    assert denied(credential, plant_ca) == Reason.BAD_CERTIFICATE


def test_a_zone_nobody_registered_is_unknown(pki: Pki) -> None:
    """However good its chain."""
    other = pki.device_ca(OTHER)
    assert denied(pki.credential(other, "plant-b-bsfg"), pki.device_ca(PLANT)) == Reason.UNKNOWN_PEER
    assert denied(pki.credential(pki.device_ca(PLANT), "plant-a-bsfg")) == Reason.UNKNOWN_PEER


def test_only_the_registered_device_ca_speaks_for_a_zone(pki: Pki, plant_ca: Authority) -> None:
    """Not another zone's, not one with the same name and constraint, not the hub's."""
    imposter = pki.device_ca(PLANT)
    assert denied(pki.credential(imposter, "plant-a-bsfg"), plant_ca) == Reason.BAD_CERTIFICATE
    assert denied(pki.credential(pki.device_ca(OTHER), "plant-a-bsfg"), plant_ca) == Reason.BAD_CERTIFICATE
    assert denied(pki.credential(pki.hub, "plant-a-bsfg"), plant_ca) == Reason.BAD_CERTIFICATE


def test_both_device_cas_of_a_renewal_count(pki: Pki, plant_ca: Authority) -> None:
    """The old and the new one."""
    renewed = pki.device_ca(PLANT)
    for issuer in (plant_ca, renewed):
        credential = pki.credential(issuer, "plant-a-bsfg")
        registry = {PLANT: [plant_ca.der, renewed.der]}
        assert prove_identity(credential.der, registry, time.time()).zone == PLANT


@pytest.mark.parametrize("permitted", [(), ("plant-b-bsfg",), ("bsfg",), ("plant-a-bsfg", "plant-b-bsfg")], ids=str)
def test_a_device_ca_that_is_not_constrained_to_the_zone_proves_nothing(pki: Pki, permitted: tuple[str, ...]) -> None:
    """Registered by mistake, it still must not speak for more than one."""
    loose = pki.device_ca(PLANT, permitted=permitted)
    assert denied(pki.credential(loose, "plant-a-bsfg"), loose) == Reason.BAD_CERTIFICATE


def test_time_decides_by_the_clock_given(pki: Pki, plant_ca: Authority) -> None:
    """Before and after, for the certificate and for its device CA."""
    now = datetime.now(UTC)
    credential = pki.credential(
        plant_ca, "plant-a-bsfg", not_before=now - timedelta(minutes=5), not_after=now + timedelta(minutes=5)
    )
    prove_identity(credential.der, {PLANT: [plant_ca.der]}, now.timestamp())
    for minutes in (-10, 10):
        at = (now + timedelta(minutes=minutes)).timestamp()
        assert denied(credential, plant_ca, now=at) == Reason.BAD_CERTIFICATE
    short = pki.device_ca(PLANT, not_after=now + timedelta(minutes=1))
    outlives = pki.credential(short, "plant-a-bsfg")
    assert denied(outlives, short, now=now.timestamp() + 120) == Reason.BAD_CERTIFICATE


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"noise"])
def test_noise_is_no_certificate(data: bytes) -> None:
    """A reason, not a crash."""
    with pytest.raises(DeniedError) as caught:
        prove_identity(data, {HUB: []}, time.time())
    assert caught.value.reason == Reason.BAD_CERTIFICATE
