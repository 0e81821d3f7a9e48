# SPDX-License-Identifier: Apache-2.0
"""Block maps (bmap 2.0): which blocks of an image must be written, and the SHA-256 of each range of them.

The format is that of ``bmaptool``, which reads what is rendered here, and whose maps are read here.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

BLOCK_BYTES: Final = 4096
"""The block size of the maps made here."""
MAX_MAP_BYTES: Final = 4 << 20
MAX_IMAGE_BYTES: Final = 1 << 40

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_SPAN: Final = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,18}))?")
_OWN_CHECKSUM: Final = re.compile(rb"(<BmapFileChecksum>\s*)([0-9a-f]{64})(\s*</BmapFileChecksum>)")
_FIELDS: Final = (
    "ImageSize",
    "BlockSize",
    "BlocksCount",
    "MappedBlocksCount",
    "ChecksumType",
    "BmapFileChecksum",
    "BlockMap",
)


@dataclass(frozen=True, slots=True)
class BlockRange:
    """Blocks that are written together.

    :param start: offset of the first byte in the image. :param end: offset behind the last one.
    :param sha256: of these bytes, 64 hex digits.
    """

    start: int
    end: int
    sha256: str


@dataclass(frozen=True, slots=True)
class BlockMap:
    """Which parts of an image carry something; ascending, without overlap.

    :param image_size: bytes of the whole image. :param block_size: bytes of a block.
    """

    image_size: int
    block_size: int
    ranges: tuple[BlockRange, ...]

    @property
    def mapped(self) -> int:
        """How many bytes are to be written."""
        return sum(part.end - part.start for part in self.ranges)

    def render(self) -> bytes:
        """The map as bmaptool reads it; equal maps give equal bytes."""
        size = self.block_size
        lines = [
            '<?xml version="1.0" ?>',
            "<!-- Which blocks of the image carry data; the other blocks need not be written. -->",
            '<bmap version="2.0">',
            f"    <ImageSize> {self.image_size} </ImageSize>",
            f"    <BlockSize> {size} </BlockSize>",
            f"    <BlocksCount> {-(-self.image_size // size)} </BlocksCount>",
            f"    <MappedBlocksCount> {sum(_blocks(part, size) for part in self.ranges)} </MappedBlocksCount>",
            "    <ChecksumType> sha256 </ChecksumType>",
            f"    <BmapFileChecksum> {'0' * 64} </BmapFileChecksum>",
            "    <BlockMap>",
            *(f'        <Range chksum="{part.sha256}"> {_span(part, size)} </Range>' for part in self.ranges),
            "    </BlockMap>",
            "</bmap>",
            "",
        ]
        blank = "\n".join(lines).encode()
        return _OWN_CHECKSUM.sub(rb"\g<1>" + hashlib.sha256(blank).hexdigest().encode() + rb"\g<3>", blank, count=1)

    @classmethod
    def parse(cls, data: bytes) -> BlockMap:
        """Read a map. :raises RefusedError: ``bad_image``: not a whole, consistent bmap 2.0 with SHA-256."""
        try:
            return _parse(data)
        except (ValueError, ET.ParseError) as error:
            raise RefusedError(Reason.BAD_IMAGE, f"block map: {error}") from error


def _blocks(part: BlockRange, size: int) -> int:
    return -(-part.end // size) - part.start // size


def _span(part: BlockRange, size: int) -> str:
    first, last = part.start // size, -(-part.end // size) - 1
    return str(first) if first == last else f"{first}-{last}"


def _parse(data: bytes) -> BlockMap:
    tree = _tree(data)
    parts = {child.tag: child for child in tree}
    if sorted(child.tag for child in tree) != sorted(_FIELDS):
        raise ValueError("a field is missing, unknown or doubled")
    image, block, count, mapped = (_number(parts[name]) for name in _FIELDS[:4])
    if not 0 < image <= MAX_IMAGE_BYTES or block not in {512 << shift for shift in range(12)}:
        raise ValueError("the size of image or block is out of range")
    if (parts["ChecksumType"].text or "").strip() != "sha256":
        raise ValueError("its checksums are not SHA-256")
    ranges = tuple(_range(element, block, image) for element in parts["BlockMap"])
    if any(after.start < before.end for before, after in itertools.pairwise(ranges)):
        raise ValueError("ranges overlap or are out of order")
    if count != -(-image // block) or mapped != sum(_blocks(part, block) for part in ranges):
        raise ValueError("its counts of blocks do not fit")
    return BlockMap(image, block, ranges)


def _tree(data: bytes) -> ET.Element:
    if len(data) > MAX_MAP_BYTES:
        raise ValueError("too large")
    if b"<!" in data.replace(b"<!--", b""):  # a document type could declare entities
        raise ValueError("it declares a document type")
    found = _OWN_CHECKSUM.findall(data)
    if len(found) != 1:
        raise ValueError("it has no checksum of its own")
    blank = _OWN_CHECKSUM.sub(rb"\g<1>" + b"0" * 64 + rb"\g<3>", data)
    if hashlib.sha256(blank).hexdigest().encode() != found[0][1]:
        raise ValueError("its own checksum does not fit")
    tree = ET.fromstring(data)  # noqa: S314 - no document type, so no entities; and its signed checksum was compared
    if tree.tag != "bmap" or tree.get("version") != "2.0":
        raise ValueError("not a bmap 2.0")
    return tree


def _number(element: ET.Element) -> int:
    text = (element.text or "").strip()
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{element.tag} is not a number")
    return int(text)


def _range(element: ET.Element, block: int, image: int) -> BlockRange:
    span, digest = _SPAN.fullmatch((element.text or "").strip()), element.get("chksum", "")
    if element.tag != "Range" or not span or not _DIGEST.fullmatch(digest):
        raise ValueError("a range is not one")
    first, last = int(span[1]), int(span[2] or span[1])
    start, end = first * block, min((last + 1) * block, image)
    if last < first or start >= image or last * block >= image:
        raise ValueError("a range lies outside of the image")
    return BlockRange(start, end, digest)


def covering(ranges: Sequence[BlockRange], start: int, end: int) -> bool:
    """Whether the ranges hold every byte of ``start`` to ``end``."""
    at = start
    for part in ranges:
        if part.start <= at < part.end:
            at = part.end
    return at >= end
