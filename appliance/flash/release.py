# SPDX-License-Identifier: Apache-2.0
"""A release: the folder with an image and what proves it, read in one order: signature, checksums, then contents.

``SHA256SUMS.sig`` is an ECDSA P-256 signature in DER over ``SHA256SUMS``, which has the checksum of every other file.
Nothing of a file is interpreted before its checksum was compared, and no checksum is believed before the signature was.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.bmap import MAX_MAP_BYTES, BlockMap
from appliance.keys.attestation.measurements import MEASUREMENTS_BYTES
from appliance.keys.operators import verifies

SUMS: Final = "SHA256SUMS"
SIGNATURE: Final = "SHA256SUMS.sig"
MANIFEST: Final = "manifest.json"
MAP_SUFFIX: Final = ".bmap"
MEASUREMENTS: Final = "measurements.json"
"""What a box compares itself with; signed by the image key on top of all that."""
CHUNK: Final = 1 << 20
"""Bytes read at once."""

_MAX_SUMS: Final = 64 << 10
_MAX_SIGNATURE: Final = 80
_MAX_MANIFEST: Final = 64 << 10
_LINE: Final = re.compile(r"([0-9a-f]{64})  ([0-9A-Za-z][0-9A-Za-z._+~-]{0,126})")
_IMAGE: Final = re.compile(r"bsfg-appliance_([0-9][0-9A-Za-z.+~]{0,62})_x86-64(?:-([a-z]{1,16}))?\.raw\.zst")

Advance = Callable[[int], None]
"""Told how many more bytes were handled."""


def image_name(version: str, profile: str) -> str:
    """The name of an image file. :raises RefusedError: ``bad_image``: version or profile make none."""
    name = f"bsfg-appliance_{version}_x86-64{f'-{profile}' if profile else ''}.raw.zst"
    if not _IMAGE.fullmatch(name):
        raise RefusedError(Reason.BAD_IMAGE, f"{name} is no name of an image")
    return name


@dataclass(frozen=True, slots=True)
class Manifest:
    """The one entry of ``manifest.json``. Sizes in bytes, checksums as 64 hex digits.

    :param url: the image file's name. :param released: the day, as YYYY-MM-DD.
    """

    name: str
    version: str
    profile: str
    url: str
    extract_size: int
    extract_sha256: str
    image_download_size: int
    image_download_sha256: str
    released: str

    @classmethod
    def parse(cls, data: bytes) -> Manifest:
        """Read it. :raises RefusedError: ``bad_image``: not such a manifest."""
        try:
            document = json.loads(data)
            (entry,) = document["os_list"]
            own = entry["bsfg"]
            texts = [_text(entry, field) for field in ("name", "url", "extract_sha256", "image_download_sha256")]
            sizes = [_size(entry, field) for field in ("extract_size", "image_download_size")]
            version, profile, released = _text(own, "version"), _text(own, "profile"), _text(entry, "release_date")
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(Reason.BAD_IMAGE, f"{MANIFEST}: {type(error).__name__} {error}") from error
        name, url, extract, download = texts
        return cls(name, version, profile, url, sizes[0], extract, sizes[1], download, released)


def _text(table: Mapping[str, Any], field: str) -> str:
    value = table[field]
    if not isinstance(value, str) or len(value) > 200 or not value.isprintable():
        raise ValueError(f"{field} is not a text")
    return value


def _size(table: Mapping[str, Any], field: str) -> int:
    value = table[field]
    if type(value) is not int or value <= 0:
        raise ValueError(f"{field} is not a size")
    return value


@dataclass(frozen=True, slots=True)
class Release:
    """A release whose signature holds, and whose small files are what was signed.

    :param image: the compressed image; its bytes are **not** compared yet (:func:`check_file`).
    :param sums: checksum by file name. :param key: SHA-256 of the public key that signed, 64 hex digits.
    """

    folder: Path
    image: Path
    sums: Mapping[str, str]
    manifest: Manifest
    blocks: BlockMap
    key: str

    def measurements(self) -> bytes | None:
        """The image's reference measurements; ``None``: it is published without.

        :raises RefusedError: ``bad_image``: the file is not what was signed.
        """
        if MEASUREMENTS not in self.sums:
            return None
        return _signed(self.folder / MEASUREMENTS, self.sums, MEASUREMENTS_BYTES)


def load_release_key(path: Path) -> ec.EllipticCurvePublicKey:
    """A public key, PEM. :raises RefusedError: ``bad_key``: it is not EC P-256."""
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise RefusedError(Reason.BAD_KEY, f"{path}: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError(Reason.BAD_KEY, f"{path}: not EC P-256")
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """What people compare: SHA-256 of the key in DER, as ``openssl pkey -pubin -outform DER | sha256sum`` has it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def open_release(place: Path, keys: Sequence[ec.EllipticCurvePublicKey]) -> Release:
    """Read a release: its folder, or its image in its folder.

    :raises DeniedError: ``image_unsigned``: none of the keys signed it.
    :raises RefusedError: ``bad_image``: something is missing, differs from what was signed, or does not fit together.
    """
    folder = place if place.is_dir() else place.parent
    text, signature = read_sums(folder / SUMS), read_signature(folder / SIGNATURE)
    signer = next((key for key in keys if verifies(key, text, signature)), None)
    if signer is None:
        raise DeniedError(Reason.IMAGE_UNSIGNED, f"{folder / SUMS}, {len(keys)} keys tried")
    return fit_together(place, text, key_digest(signer))


def fit_together(place: Path, text: bytes, key: str) -> Release:
    """The release that a list of checksums is of; whether the list is to be believed is for the caller to know.

    :param key: see :class:`Release`. :raises RefusedError: ``bad_image``: as :func:`open_release`.
    """
    folder = place if place.is_dir() else place.parent
    sums = parse_sums(text)
    images = [name for name in sums if _IMAGE.fullmatch(name)]
    if place.is_dir() and len(images) != 1:
        raise RefusedError(Reason.BAD_IMAGE, f"{SUMS} has {len(images)} images instead of one")
    image = images[0] if place.is_dir() else place.name
    if image not in images:
        raise RefusedError(Reason.BAD_IMAGE, f"{SUMS} has no image {image}")
    manifest = Manifest.parse(_signed(folder / MANIFEST, sums, _MAX_MANIFEST))
    map_name = image.removesuffix(".raw.zst") + MAP_SUFFIX
    blocks = BlockMap.parse(_signed(folder / map_name, sums, MAX_MAP_BYTES))
    found = (manifest.url, manifest.image_download_sha256, manifest.extract_size)
    if found != (image, sums[image], blocks.image_size):
        raise RefusedError(Reason.BAD_IMAGE, f"{MANIFEST} and {map_name} are not of {image}")
    if image_name(manifest.version, manifest.profile) != image:
        raise RefusedError(Reason.BAD_IMAGE, f"{MANIFEST} says another version or profile than {image}")
    return Release(folder, folder / image, sums, manifest, blocks, key)


def read_sums(path: Path) -> bytes:
    """``SHA256SUMS``, up to the size that one may have. :raises RefusedError: ``bad_image``."""
    return _small(path, _MAX_SUMS)


def read_signature(path: Path) -> bytes:
    """``SHA256SUMS.sig``, up to the size that one may have. :raises RefusedError: ``bad_image``."""
    return _small(path, _MAX_SIGNATURE)


def parse_sums(text: bytes) -> dict[str, str]:
    """``SHA256SUMS`` as ``sha256sum`` writes it. :raises RefusedError: ``bad_image``."""
    try:
        lines = text.decode("ascii").split("\n")
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.BAD_IMAGE, f"{SUMS}: {error}") from error
    found = [_LINE.fullmatch(line) for line in lines[:-1]]
    sums = {line[2]: line[1] for line in found if line}
    if lines[-1] or not found or len(sums) != len(found):
        raise RefusedError(Reason.BAD_IMAGE, f"{SUMS}: not a list of checksums and names, each name once")
    return sums


def render_sums(sums: Mapping[str, str]) -> bytes:
    """The one form of a list of checksums: sorted by name."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode("ascii")


def check_file(path: Path, sha256: str, advance: Advance = lambda _: None) -> None:
    """Compare a file with its checksum. :raises RefusedError: ``bad_image``: missing, or other bytes."""
    try:
        with path.open("rb") as file:
            found = digest_of(file, advance)
    except OSError as error:
        raise RefusedError(Reason.BAD_IMAGE, f"{path}: {error.strerror}") from error
    if found != sha256:
        raise RefusedError(Reason.BAD_IMAGE, f"{path.name}: its SHA-256 is {found[:16]}…, not {sha256[:16]}…")


def digest_of(file: BinaryIO, advance: Advance = lambda _: None) -> str:
    """SHA-256 of what is left of an open file."""
    made = hashlib.sha256()
    while data := file.read(CHUNK):
        made.update(data)
        advance(len(data))
    return made.hexdigest()


def _small(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise RefusedError(Reason.BAD_IMAGE, f"{path}: {error.strerror}") from error
    if len(data) > limit:
        raise RefusedError(Reason.BAD_IMAGE, f"{path}: larger than {limit} bytes")
    return data


def _signed(path: Path, sums: Mapping[str, str], limit: int) -> bytes:
    data = _small(path, limit)
    if sums.get(path.name) != hashlib.sha256(data).hexdigest():
        raise RefusedError(Reason.BAD_IMAGE, f"{path.name}: not what was signed")
    return data
