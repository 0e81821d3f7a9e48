# SPDX-License-Identifier: Apache-2.0
"""**A simulated boot**, for development on a software TPM: nothing was booted, so PCRs are extended with made-up words.

A box's firmware, loader and kernel extend PCRs 7, 11, 12, 13 and 15 while it boots. Behind a software TPM there is no
boot: here fixed words take its place, once per reset of the TPM, and a development image key signs the resulting
PCR 11 as the builder of an image would. It proves nothing about any machine; a TPM device is refused.
"""

from __future__ import annotations

import base64
import json
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.boundary.errors import IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.tpm.device import Device
from appliance.keys.tpm.image import fingerprint
from appliance.keys.tpm.policy import BOUND_PCRS, IMAGE_PCR, START, policy_pcr
from appliance.keys.tpm.public import Digest, sha256

SIMULATED_PCRS: Final = tuple(sorted((*BOUND_PCRS, IMAGE_PCR)))
"""The PCRs that a simulated boot extends."""


def simulated_word(pcr: int) -> Digest:
    """What a simulated boot extends this PCR with."""
    return sha256(f"bsfg simulated boot, PCR {pcr}".encode())


def simulated_values() -> dict[int, bytes]:
    """The values of :data:`SIMULATED_PCRS` after a simulated boot."""
    return {pcr: sha256(bytes(START) + simulated_word(pcr)) for pcr in SIMULATED_PCRS}


def simulate_boot(device: Device) -> dict[int, bytes]:
    """Extend each of :data:`SIMULATED_PCRS` that is as after a reset; answers the values now. Again does nothing.

    :raises RefusedError: ``tpm_unsupported``: the TPM is none of software.
    :raises IntegrityError: ``tpm_altered``: a PCR has another value; only a reset of the TPM mends it.
    """
    if not device.simulated:
        raise RefusedError(Reason.TPM_UNSUPPORTED, "a boot is simulated on a software TPM alone")
    device.ensure_srk()
    for pcr, value in device.pcr_read(SIMULATED_PCRS).items():
        if value == START:
            device.pcr_extend(pcr, simulated_word(pcr))
    values = device.pcr_read(SIMULATED_PCRS)
    if values != simulated_values():
        raise IntegrityError(Reason.TPM_ALTERED, "PCRs are neither as after a reset nor as after a simulated boot")
    return values


def simulated_signatures(key: rsa.RSAPrivateKey) -> bytes:
    """The development image key's signature over PCR 11 of a simulated boot, in systemd's format (``.pcrsig``)."""
    return pcr_signatures(key, [simulated_values()[IMAGE_PCR]])


def pcr_signatures(key: rsa.RSAPrivateKey, values: list[bytes]) -> bytes:
    """Signatures over values of PCR 11 in systemd's format, one entry per value (systemd-measure(1))."""
    entries = []
    for value in values:
        policy = policy_pcr(START, {IMAGE_PCR: value})
        entries.append(
            {
                "pcrs": [IMAGE_PCR],
                "pkfp": fingerprint(key.public_key()),
                "pol": policy.hex(),
                "sig": base64.b64encode(key.sign(policy, padding.PKCS1v15(), hashes.SHA256())).decode("ascii"),
            }
        )
    return json.dumps({"sha256": entries}).encode()
