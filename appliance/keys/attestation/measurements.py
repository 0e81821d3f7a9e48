# SPDX-License-Identifier: Apache-2.0
"""Reference measurements: which PCR values the images of a builder lead to. One signed file, published with each image.

The image key signs it, whose word about PCR 11 opens the boundary key anyway (``docs/adr/0010``): RSASSA-PKCS1-v1_5
with SHA-256 over a statement that cannot be mistaken for one of its signatures over a PCR policy. A file lists all
images that may run, the smallest number that may, and its own serial: a hub takes no smaller serial than it has seen,
so neither an old file nor, with it, an old image comes back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.documents import (
    base64_bytes,
    base64_text,
    decimal_number,
    document_statement,
    hex_bytes,
    parse_document,
    render_document,
)

FORMAT: Final = "bsfg-measurements-1"
MEASUREMENTS_BYTES: Final = 256 * 1024
IMAGES: Final = 256
VALUES: Final = 16
"""Values that one PCR of one image may have: it grows with each phase of the boot."""
MEASURED_PCRS: Final = (4, 9, 11)
"""The PCRs that an image alone decides: loader and kernel image, initrd, sections and phases of the kernel image."""
_IMAGE_PCR: Final = 11
_VERSION: Final = re.compile(r"[A-Za-z0-9._+~-]{1,64}")
_LARGEST: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Image:
    """One image.

    :param version: for people. :param number: counts images up; what anti-rollback compares.
    :param pcrs: for each PCR that it decides, the values it may have; PCR 11 at least.
    """

    version: str
    number: int
    pcrs: Mapping[int, tuple[bytes, ...]]

    def matches(self, pcrs: Mapping[int, bytes]) -> bool:
        """Whether these PCR values are this image's."""
        return all(pcrs.get(pcr) in values for pcr, values in self.pcrs.items())


@dataclass(frozen=True, slots=True)
class Measurements:
    """What a builder published.

    :param serial: of the file; grows with each. :param minimum: the smallest image number that may run.
    """

    serial: int
    minimum: int
    images: tuple[Image, ...]
    signature: bytes = b""

    def image_of(self, pcrs: Mapping[int, bytes]) -> Image | None:
        """The newest image that has these PCR values."""
        found = [image for image in self.images if image.matches(pcrs)]
        return max(found, key=lambda image: image.number, default=None)

    def signed_by(self, key: rsa.RSAPublicKey) -> bool:
        """Whether the image key signed this."""
        try:
            key.verify(self.signature, self._statement(), padding.PKCS1v15(), hashes.SHA256())
        except InvalidSignature:
            return False
        return True

    def sign(self, key: rsa.RSAPrivateKey) -> Measurements:
        """The same, signed; where images are built."""
        return replace(self, signature=key.sign(self._statement(), padding.PKCS1v15(), hashes.SHA256()))

    def render(self) -> bytes:
        """The one form of this file (RFC 8785 and a newline)."""
        return render_document({**self._values(), "signature": base64_text(self.signature)})

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Read a file; its signature is not checked yet. :raises RefusedError: ``bad_document``."""
        fields = {"serial": int, "minimum": int, "images": list, "signature": str}
        values = parse_document(data, FORMAT, fields, MEASUREMENTS_BYTES)
        try:
            if len(values["images"]) > IMAGES:
                raise ValueError(f"more than {IMAGES} images")
            images = tuple(_image(image) for image in values["images"])
            if sorted({image.number for image in images}) != [image.number for image in images]:
                raise ValueError("images are not in the order of their numbers")
            return cls(_count(values["serial"]), _count(values["minimum"]), images, base64_bytes(values["signature"]))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"measurements: {error}") from error

    def follows(self, seen: Measurements | None, key: rsa.RSAPublicKey) -> Measurements:
        """This, if the image key signed it and it takes nothing back that was seen.

        :raises DeniedError: ``bad_measurements``.
        """
        if not self.signed_by(key):
            raise DeniedError(Reason.BAD_MEASUREMENTS, "not signed by the image key")
        if seen is not None and (self.serial < seen.serial or self.minimum < seen.minimum):
            raise DeniedError(
                Reason.BAD_MEASUREMENTS,
                f"serial {self.serial}, minimum {self.minimum}; {seen.serial} and {seen.minimum} were seen",
            )
        return self

    def _statement(self) -> bytes:
        return document_statement("measurements", self._values())

    def _values(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "serial": self.serial,
            "minimum": self.minimum,
            "images": [
                {
                    "version": image.version,
                    "number": image.number,
                    "pcrs": {str(pcr): [value.hex() for value in values] for pcr, values in image.pcrs.items()},
                }
                for image in self.images
            ],
        }


def _image(values: Any) -> Image:
    version, pcrs = values["version"], values["pcrs"]
    if set(values) != {"version", "number", "pcrs"}:
        raise ValueError("an image has a version, a number and pcrs")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        raise ValueError("a version is 1 to 64 of [A-Za-z0-9._+~-]")
    parsed = {decimal_number(pcr, 5): _values_of(found) for pcr, found in pcrs.items()}
    if _IMAGE_PCR not in parsed or not set(parsed) <= set(MEASURED_PCRS):
        raise ValueError(f"an image decides PCR {_IMAGE_PCR}, and none but {MEASURED_PCRS}")
    return Image(version, _count(values["number"]), parsed)


def _values_of(found: Any) -> tuple[bytes, ...]:
    if not isinstance(found, list) or not 1 <= len(found) <= VALUES:
        raise ValueError(f"a PCR has 1 to {VALUES} values")
    return tuple(hex_bytes(value, 32) for value in found)


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LARGEST:
        raise ValueError("a number is missing or out of range")
    return value
