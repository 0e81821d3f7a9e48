# SPDX-License-Identifier: Apache-2.0
"""Endorsement certificates: the chain is checked strictly, and dates are not asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import certificate_der
from appliance.keys.enrolment.vendors import EK_USAGE, TpmVendors
from appliance.keys.tpm.endorsement import der_prefix, endorsement_key, template
from tests.boxes import CA, EK_KEYS, VENDOR, SimulatedBox, certificate, usage

BOX = SimulatedBox()
EK = BOX.ek.public_key()
NO_CA = (x509.BasicConstraints(ca=False, path_length=None), True)
ENCIPHERS = (usage(key_encipherment=True), True)


def _refused(vendors: TpmVendors, der: bytes) -> tuple[Reason, str]:
    with pytest.raises(DeniedError) as refused:
        vendors.check(der, BOX.ek_public)
    return refused.value.reason, refused.value.detail


def test_a_known_vendors_certificate_is_taken_whatever_its_dates() -> None:
    """With the root, and with the issuing CA alone."""
    whole, part = TpmVendors((VENDOR.issuer, VENDOR.root)), TpmVendors((VENDOR.issuer,))
    der = VENDOR.certify(EK)
    assert whole.check(der, BOX.ek_public) == "CN=vendor root"
    assert part.check(der, BOX.ek_public) == "CN=vendor"
    assert _refused(TpmVendors((VENDOR.root,)), der)[0] is Reason.EK_UNKNOWN_VENDOR
    assert _refused(TpmVendors(()), der)[0] is Reason.EK_UNKNOWN_VENDOR


@pytest.mark.parametrize(
    ("extensions", "words"),
    [
        ((CA[0], ENCIPHERS), "a CA's certificate"),
        ((NO_CA, (usage(digital_signature=True), True)), "key usage"),
        ((NO_CA, ENCIPHERS, (x509.ExtendedKeyUsage([x509.OID_SERVER_AUTH]), False)), "purpose"),
        ((NO_CA, ENCIPHERS, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"0"), True)), "1.2.3.4"),
    ],
)
def test_a_certificate_for_something_else_is_refused(
    extensions: tuple[tuple[x509.ExtensionType, bool], ...], words: str
) -> None:
    """Though a TPM vendor signed it, and for this key."""
    reason, detail = _refused(TpmVendors((VENDOR.issuer,)), VENDOR.certify(EK, *extensions))
    assert reason is Reason.EK_MISMATCH
    assert words in detail


@pytest.mark.parametrize(
    "extensions",
    [
        (),
        (NO_CA, CA[1]),
        (CA[0], (usage(digital_signature=True), True)),
        (*CA, (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"0"), True)),
    ],
)
def test_what_is_no_ca_certifies_nobody(extensions: tuple[tuple[x509.ExtensionType, bool], ...]) -> None:
    """Though it signed the certificate, and an operator put it there."""
    issuer = certificate("vendor", VENDOR.key.public_key(), "vendor root", VENDOR.root_key, *extensions)
    assert _refused(TpmVendors((issuer,)), VENDOR.certify(EK))[0] is Reason.EK_UNKNOWN_VENDOR


def test_path_lengths_hold() -> None:
    """A root that allows no CA below it leaves the chain at the issuing CA, which was put there for itself."""
    short = (x509.BasicConstraints(ca=True, path_length=0), True)
    root = certificate("vendor root", VENDOR.root_key.public_key(), "vendor root", VENDOR.root_key, short, CA[1])
    assert TpmVendors((VENDOR.issuer, root)).check(VENDOR.certify(EK), BOX.ek_public) == "CN=vendor"


def test_a_signature_of_another_key_under_the_same_name_is_refused() -> None:
    """Names prove nothing."""
    forger = ec.generate_private_key(ec.SECP256R1())
    forged = certificate("TPM", EK, "vendor", forger, NO_CA, ENCIPHERS, (x509.ExtendedKeyUsage([EK_USAGE]), False))
    vendors = TpmVendors((VENDOR.issuer, VENDOR.root))
    assert _refused(vendors, certificate_der(forged))[0] is Reason.EK_UNKNOWN_VENDOR


def test_the_folder_is_read_whole_or_not(tmp_path: Path) -> None:
    """A file that is no certificate is named; other files are left alone."""
    (tmp_path / "a.pem").write_bytes(VENDOR.pem)
    (tmp_path / "README").write_text("not one")
    assert len(TpmVendors.load(tmp_path).authorities) == 2
    (tmp_path / "b.pem").write_text("not one")
    with pytest.raises(RefusedError) as refused:
        TpmVendors.load(tmp_path)
    assert "b.pem" in refused.value.detail


def test_an_endorsement_key_has_a_standard_template() -> None:
    """Another policy or other attributes would let the key decrypt for anybody."""
    assert endorsement_key(BOX.ek_public) == EK
    for at in (2, 5, 7, 12, 44, 50, 54):
        changed = bytearray(BOX.ek_public)
        changed[at] ^= 1
        with pytest.raises(RefusedError):
            endorsement_key(bytes(changed))
    for bad in (b"", template.__name__.encode(), BOX.ek_public[:-1], BOX.ek_public + b"\0"):
        with pytest.raises(RefusedError):
            endorsement_key(bad)
    assert isinstance(EK, rsa.RSAPublicKey)
    assert EK_KEYS[1].public_key() != EK


def test_vendors_padding_is_dropped() -> None:
    """NV indices are larger than the certificates in them."""
    der = VENDOR.certify(EK)
    for tail in (b"", bytes(100), b"\xff" * 100):
        assert der_prefix(der + tail) == der
    assert der_prefix(b"\x30\x01") == b"\x30\x01"
