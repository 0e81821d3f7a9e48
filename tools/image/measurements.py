# SPDX-License-Identifier: Apache-2.0
"""The file of expected measurements that is published with an image: what a hub must see in a box's PCR 11.

The image key signs it, the one that signs PCR 11 for the running phases. A file may carry earlier images as well: a
fleet is never updated all at once.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware.measurements import running_values
from appliance.firmware.pe import sections
from appliance.keys.attestation.measurements import Image, Measurements
from appliance.keys.tpm.image import ImageSignatures
from appliance.keys.tpm.policy import START, policy_pcr

_VERSION: Final = re.compile(r"(\d{1,4})\.(\d{1,3})\.(\d{1,3})(?:[+~-][A-Za-z0-9._+~-]*)?")
_PCR: Final = 11
_SIGNATURES: Final = ".pcrsig"


def image_number(version: str) -> int:
    """The number of an image, from its version ``major.minor.patch``: it grows as versions do.

    :raises RefusedError: ``bad_image``: another form, or more than 2146.999.999.
    """
    found = _VERSION.fullmatch(version)
    if not found or int(found[1]) > 2146:
        raise RefusedError(Reason.BAD_IMAGE, f"a version is major.minor.patch, such as 0.1.0, not {version!r}")
    return (int(found[1]) * 1000 + int(found[2])) * 1000 + int(found[3])


def image_of(uki: Path, version: str, key: rsa.RSAPublicKey) -> Image:
    """An image as the file lists it: computed from its sections, and the same as the image key signed in it.

    :raises RefusedError: ``bad_image``: no kernel image. :raises DeniedError: ``image_not_signed``: it holds no
        signature of this key over one of the values, so the box would never have them.
    """
    found = sections(uki.read_bytes())
    values = running_values(found)
    signed = ImageSignatures.parse(next((one.data for one in found if one.name == _SIGNATURES), b"").rstrip(b"\0"), key)
    for value in values:
        signed.over(policy_pcr(START, {_PCR: value}), key)
    return Image(version, image_number(version), {_PCR: values})


def published(
    uki: Path,
    version: str,
    sign_key: Path,
    *,
    previous: Measurements | None = None,
    minimum: int = 0,
) -> bytes:
    """The signed file for an image (format bsfg-measurements-1).

    :param sign_key: the image key: RSA, PEM, not encrypted. :param previous: the file before; its images stay in
        this one if they are not below the minimum, its serial is counted up, and its minimum holds if it is larger.
    :param minimum: the smallest image number that may run from now on.
    :raises RefusedError: ``bad_image``: no kernel image, or this version was published with other measurements;
        ``bad_key``: no such key; ``bad_input``: the image has no signatures over PCR 11.
    :raises DeniedError: ``image_not_signed``: those in the image are another key's, or over other values.
    """
    try:
        key = serialization.load_pem_private_key(sign_key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise RefusedError(Reason.BAD_KEY, f"{sign_key}: {error}") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise RefusedError(Reason.BAD_KEY, f"{sign_key}: not RSA")
    made = image_of(uki, version, key.public_key())
    known = {image.number: image for image in previous.images} if previous else {}
    if known.setdefault(made.number, made) != made:
        raise RefusedError(Reason.BAD_IMAGE, f"{version} was published with other measurements; give it a new version")
    least = max(minimum, previous.minimum if previous else 0)
    if made.number < least:
        raise RefusedError(Reason.BAD_IMAGE, f"{version} is below the smallest image that may run, {least}")
    images = tuple(known[number] for number in sorted(known) if number >= least)
    return Measurements(previous.serial + 1 if previous else 1, least, images).sign(key).render()
