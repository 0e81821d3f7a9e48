# SPDX-License-Identifier: Apache-2.0
"""The bytes of a compressed image, in one pass, proven at the end.

Both sides of the decompression are hashed while they pass: a file that is exchanged after its checksum was compared is
noticed before the disk can boot.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from typing import BinaryIO, Final, cast

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.release import CHUNK, Release

_WINDOW: Final = 1 << 27
"""128 MiB: no image needs more of its past in memory, and a file that asks for more is none of ours."""


class _Hashing(io.RawIOBase):
    """A file whose bytes are hashed as they are read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._made = hashlib.sha256()
        self.count = 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._made.update(data)
        self.count += len(data)
        return data

    def rest(self) -> str:
        """The checksum of the whole file, also of what nobody wanted to read."""
        while self.read(CHUNK):
            pass
        return self._made.hexdigest()


def image_bytes(release: Release) -> Iterator[bytes]:
    """The image, decompressed, in pieces of at most ``CHUNK`` bytes. Ends only if all of it is what was signed.

    :raises RefusedError: ``bad_image``: it is not.
    """
    try:
        import zstandard
    except ImportError as error:
        raise RefusedError(Reason.BAD_INPUT, "images are read with the Python package zstandard: install it") from error

    manifest, made, size = release.manifest, hashlib.sha256(), 0
    try:
        with release.image.open("rb") as raw:
            file = _Hashing(raw)
            unpacker = zstandard.ZstdDecompressor(max_window_size=_WINDOW)
            with unpacker.stream_reader(cast("BinaryIO", file), read_size=CHUNK) as reader:
                while data := reader.read(CHUNK):
                    size += len(data)
                    if size > manifest.extract_size:
                        raise RefusedError(Reason.BAD_IMAGE, f"{release.image.name}: larger than its manifest says")
                    made.update(data)
                    yield data
                packed = file.rest()
    except (OSError, zstandard.ZstdError) as error:
        raise RefusedError(Reason.BAD_IMAGE, f"{release.image.name}: {error}") from error
    found = (size, made.hexdigest(), packed, file.count)
    expected = manifest.extract_size, manifest.extract_sha256, manifest.image_download_sha256
    if found != (*expected, manifest.image_download_size):
        raise RefusedError(Reason.BAD_IMAGE, f"{release.image.name}: not what was signed, or it was changed meanwhile")
