# SPDX-License-Identifier: Apache-2.0
"""The folder of evidence: files are added, and none is ever written a second time. Blocking.

=============================== ==================================================================================
``0001-<digest>.evidence.json`` a bundle; the digest is the first 16 digits of its SHA-256
``0001-<digest>.seal.json``     its seal, durable before the bundle: a bundle that is there has one
``0001-<digest>.request.json``  the request for release that was made with it, if any was
``reserve``                     room for the next bundle, given back when the disk is full
=============================== ==================================================================================

A power cut leaves a seal without a bundle, which counts for nothing. There is room for :data:`KEPT` bundles; then the
oldest one goes. Each bundle names the digest of the one before, so a missing one is missed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.keys.files import sync_folder
from appliance.keys.tpm.public import Digest
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, SEAL_BYTES, digest_of

KEPT: Final = 32
RESERVE_BYTES: Final = BUNDLE_BYTES + 64 * 1024
_NAME: Final = re.compile(r"([0-9]{4,9})-([0-9a-f]{16})\.evidence\.json")
_SEALS: Final = re.compile(r"([0-9]{4,9})-[0-9a-f]{16}\.(?:evidence|seal)\.json")
_MODE: Final = 0o440


@dataclass(frozen=True, slots=True)
class Kept:
    """One bundle with its seal. :param number: counts up. :param short: the first 16 digits of its digest."""

    number: int
    short: str
    bundle: Path
    seal: Path

    @property
    def request(self) -> Path:
        """Where a request for release is kept beside it."""
        return self.seal.with_name(self.seal.name.replace(".seal.json", ".request.json"))

    def read(self) -> tuple[bytes, bytes]:
        """Bundle and seal. :raises OSError: they cannot be read. :raises RefusedError: ``bad_evidence``: damaged."""
        with self.bundle.open("rb") as one, self.seal.open("rb") as other:
            bundle, seal = one.read(BUNDLE_BYTES + 1), other.read(SEAL_BYTES + 1)
        if digest_of(bundle).hex()[:16] != self.short:
            raise RefusedError(Reason.BAD_EVIDENCE, f"{self.bundle.name} is not what was written")
        return bundle, seal


class EvidenceStore:
    """All evidence of a box, or of a zone at the hub. One process writes at a time."""

    def __init__(self, folder: Path, kept: int = KEPT) -> None:
        self.folder = folder
        self._kept = kept

    def all(self) -> list[Kept]:
        """All bundles, the oldest first. A folder that is not there has none. :raises OSError: it cannot be read."""
        try:
            names = sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []
        return sorted(self._of(names), key=lambda each: each.number)

    def _of(self, names: list[str]) -> Iterator[Kept]:
        for name in names:
            match = _NAME.fullmatch(name)
            if match is None:
                continue
            seal = self.folder / name.replace(".evidence.json", ".seal.json")
            if seal.name in names:
                yield Kept(int(match[1]), match[2], self.folder / name, seal)

    def latest(self) -> Kept | None:
        """The newest bundle; ``None``: there is none."""
        kept = self.all()
        return kept[-1] if kept else None

    def find(self, digest: Digest) -> Kept | None:
        """The bundle with this digest."""
        return next((each for each in self.all() if digest.hex().startswith(each.short)), None)

    def next_number(self) -> int:
        """The number of the next bundle: beyond every file that is or was begun here."""
        with contextlib.suppress(FileNotFoundError):
            return max((int(m[1]) for m in map(_SEALS.fullmatch, os.listdir(self.folder)) if m), default=0) + 1
        return 1

    def add(self, bundle: bytes, seal: bytes) -> Digest:
        """Keep a bundle with its seal, durably; its digest.

        :raises OSError: the disk cannot take it. :raises RefusedError: ``bad_input``: it is too long.
        """
        if len(bundle) > BUNDLE_BYTES or len(seal) > SEAL_BYTES:
            raise RefusedError(Reason.BAD_INPUT, "more than evidence may have")
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        digest = digest_of(bundle)
        name = f"{self.next_number():04}-{digest.hex()[:16]}"
        try:
            self._write(name, bundle, seal)
        except OSError as error:
            if error.errno != errno.ENOSPC or not self._give_back():
                raise
            self._write(f"{self.next_number():04}-{digest.hex()[:16]}", bundle, seal)
        self._forget()
        return digest

    def reserve(self) -> None:
        """Keep room for the next bundle, so that a full disk does not stand in its way. :raises OSError: no room."""
        self.folder.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        finally:
            os.close(descriptor)

    @property
    def _reserve(self) -> Path:
        return self.folder / "reserve"

    def _give_back(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            self._reserve.unlink()
            return True
        return False

    def _write(self, name: str, bundle: bytes, seal: bytes) -> None:
        """The seal first. What was begun and failed stays, and its number is not used again."""
        for ending, data in (("seal", seal), ("evidence", bundle)):
            path, partial = self.folder / f"{name}.{ending}.json", self.folder / f"{name}.{ending}.partial"
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    os.fchmod(file.fileno(), _MODE)
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(partial, path)  # unlike a rename it never replaces
            finally:
                partial.unlink(missing_ok=True)
            sync_folder(self.folder)

    def _forget(self) -> None:
        """The oldest beyond the limit go; the bundle first, as it counts only with its seal."""
        for each in self.all()[: -self._kept]:
            each.bundle.unlink(missing_ok=True)
            each.seal.unlink(missing_ok=True)
            each.request.unlink(missing_ok=True)
