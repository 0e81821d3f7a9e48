# SPDX-License-Identifier: Apache-2.0
"""One flash from its options to its end: everything that can be refused is refused before anything is written.

Order: signature, also of the measurements; site configuration and voucher; the disk; the image's checksum; somebody's
word; only then the disk is written.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import DiskFacts, Disks, Target
from appliance.flash.embed import MAX_FILE_BYTES, SITE, VOUCHER, Embedding
from appliance.flash.guards import check_confirmation, check_disk
from appliance.flash.release import MEASUREMENTS, Release, check_file, open_release
from appliance.flash.stream import image_bytes
from appliance.flash.target import open_file
from appliance.flash.writing import Progress, Written, check_image, quiet, write_image
from appliance.keys.enrolment.voucher import Voucher
from appliance.site.document import open_site


@dataclass(frozen=True, slots=True)
class FileTarget:
    """A file in place of a disk. :param size: bytes; none: those of the image."""

    path: Path
    size: int | None


@dataclass(frozen=True, slots=True)
class Job:
    """A flash that nothing speaks against, up to the checks that are left: :meth:`check`, then :meth:`write`.

    :param disk: what is overwritten; none: a file.
    """

    release: Release
    embedding: Embedding
    disk: DiskFacts | None
    file: FileTarget | None

    @classmethod
    def prepare(
        cls,
        image: Path,
        keys: Sequence[ec.EllipticCurvePublicKey],
        disks: Disks,
        *,
        disk: Path | None = None,
        file: FileTarget | None = None,
        site: Path | None = None,
        voucher: Path | None = None,
    ) -> Job:
        """Open all parts. Exactly one of ``disk`` and ``file`` is given.

        :raises BsfgError: whatever speaks against it.
        """
        release = open_release(image, keys)
        measured = release.measurements()
        embedding = Embedding.of(_documents(site, voucher), {} if measured is None else {MEASUREMENTS: measured})
        if disk is None:
            if file is None:
                raise RefusedError(Reason.BAD_INPUT, "neither a disk nor a file is named")
            if (file.size or release.blocks.image_size) < release.blocks.image_size:
                raise RefusedError(Reason.DISK_REFUSED, f"{file.path}: the image needs {release.blocks.image_size}")
            return cls(release, embedding, None, file)
        facts = disks.facts(disk)
        check_disk(facts, release.blocks.image_size)
        return cls(release, embedding, facts, None)

    def check(self, progress: Progress = quiet, *, whole: bool = False) -> None:
        """Compare the image with its checksum. :param whole: decompress it, too, and compare what is in it.

        :raises RefusedError: ``bad_image``.
        """
        done, total = 0, self.release.manifest.image_download_size

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress("check", done, total)

        check_file(self.release.image, self.release.sums[self.release.image.name], advance)
        if whole:
            check_image(image_bytes(self.release), self.release.blocks, progress)

    def write(
        self, disks: Disks, confirm: Callable[[DiskFacts], str], progress: Progress = quiet, *, resume: bool = False
    ) -> Written:
        """Write the image. :param confirm: asked for the serial number of the disk; not asked for a file.

        :raises BsfgError: as :func:`write_image`, :func:`check_confirmation` and ``disks.open``.
        """
        target = self._open(disks, confirm, resume=resume)
        try:
            embed = self.embedding if self.embedding.files else None
            stream = image_bytes(self.release)
            return write_image(stream, self.release.blocks, target, resume=resume, embed=embed, progress=progress)
        finally:
            target.close()

    def _open(self, disks: Disks, confirm: Callable[[DiskFacts], str], *, resume: bool) -> Target:
        need = self.release.blocks.image_size
        if self.file is not None:
            return open_file(self.file.path, self.file.size or need, again=resume)
        assert self.disk is not None  # noqa: S101 - prepare() gives one of them
        check_confirmation(self.disk, confirm(self.disk))
        check_disk(disks.facts(self.disk.node), need)  # it may have been mounted while somebody typed
        return disks.open(self.disk)


def _documents(site: Path | None, voucher: Path | None) -> dict[str, bytes]:
    """What is embedded, proven to be what it should be.

    :raises BsfgError: ``bad_site``, ``site_unsigned``, ``bad_voucher``, ``bad_input``.
    """
    files, zone = {}, None
    if site is not None:
        files[SITE] = _read(site)
        zone = open_site(files[SITE], str(site)).config.zone
    if voucher is not None:
        files[VOUCHER] = _read(voucher)
        named = Voucher.parse(files[VOUCHER]).zone
        if zone is not None and named != zone:
            raise RefusedError(Reason.BAD_INPUT, f"the voucher is for zone {named}, the site configuration for {zone}")
    return files


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: {error.strerror}") from error
