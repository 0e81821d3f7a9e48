# SPDX-License-Identifier: Apache-2.0
"""The hub CA with its key in the hub's TPM: made once, under the policy of the hub's boundary key, and latched with it.

It is for the keeper of a hub, in the TPM's own thread. It certifies whatever key asks for it by a request of its own:
that a key is a zone's, and in a TPM, the enrolment office has proven before. After a change of the hub's operators the
key still works, but no release can open it after the next quarantine: then a hub needs a new CA. Blocking.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, IntegrityError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import (
    Authority,
    certificate_pem,
    certify_device_ca,
    check_device_ca,
    new_hub_ca,
)
from appliance.keys.enrolment.csr import check_request
from appliance.keys.files import PUBLIC, write_atomically
from appliance.keys.tpm.boundary_key import BoundaryKey, Images
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.identity import BoundaryIdentity, boundary_template
from appliance.keys.tpm.signer import BoundarySigner

KEY_FILE: Final = "hub-ca-key.json"
"""The key, in the form of the boundary key's file; only this TPM can use it."""
CERTIFICATE_FILE: Final = "hub-ca.pem"
"""Its certificate. Both lie in the keeper's folder."""


def open_tpm_authority(
    device: Device, boundary: BoundaryIdentity, images: Images, folder: Path, zone: ZoneId, now: datetime
) -> Authority:
    """The hub CA of this TPM, made if there is none; may be killed anywhere and called again.

    :param boundary: the hub's boundary key, whose policy the new key gets. :param zone: the hub's.
    :raises IntegrityError: ``tpm_altered``: the files do not belong together.
    :raises DeniedError: ``key_latched``, ``tpm_refused``, ``image_not_signed``: as for the boundary key, at making.
    """
    signer = BoundarySigner(BoundaryKey(device, _ensure_key(device, boundary, folder), images, folder))
    path = folder / CERTIFICATE_FILE
    if not path.exists():
        made = new_hub_ca(now, f"{identity_of(zone)} hub CA", signer)
        write_atomically(path, certificate_pem(made.certificate), PUBLIC)
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise IntegrityError(Reason.TPM_ALTERED, f"{path}: {error}") from error
    if certificate.public_key() != signer.public_key():
        raise IntegrityError(Reason.TPM_ALTERED, f"{path} is not of the key in {KEY_FILE}")
    return Authority(signer, certificate)


def certify_requested(authority: Authority, zone: ZoneId, request: bytes, now: datetime) -> x509.Certificate:
    """A zone's device CA certificate for the key of its request, and nothing that could be more than a device CA.

    :param request: PKCS #10 (DER), as a zone's keeper makes it; only its key is taken from it.
    :raises DeniedError: ``bad_proof``: it is another zone's, asks for more, or is not signed by its own key;
        ``bad_certificate``: the key is not EC P-256, or the hub CA has ended; ``key_latched`` and others of the TPM.
    """
    try:
        key = x509.load_der_x509_csr(request).public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise DeniedError(Reason.BAD_PROOF, f"certificate request: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise DeniedError(Reason.BAD_PROOF, "the certificate request is for a key that is not EC")
    check_request(request, zone, key)
    made = certify_device_ca(authority, zone, key, now)
    check_device_ca(authority.certificate, zone, made)
    return made


def _ensure_key(device: Device, boundary: BoundaryIdentity, folder: Path) -> BoundaryIdentity:
    path = folder / KEY_FILE
    if path.exists():
        return BoundaryIdentity.parse(path.read_bytes())
    public, private = device.create_key(boundary_template(boundary.policy, boundary.birth))
    made = replace(boundary, public=public, private=private)
    made.check()
    write_atomically(path, made.render())
    return made
