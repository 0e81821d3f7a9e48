# SPDX-License-Identifier: Apache-2.0
"""A whole box that is switched off: disk, firmware variables, TPM, identity. It can be copied, attacked and started."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tools.vm import firmware
from tools.vm.disk import GROWN, Disk, copy_sparse
from tools.vm.faults import VmError
from tools.vm.hardware import Drive, Hardware, Network, UserNetwork
from tools.vm.images import Image, build_keys
from tools.vm.machine import Machine
from tools.vm.tpm import VENDOR_CAS, SoftwareTpm, copy_tpm, make_tpm


@dataclass(frozen=True, slots=True)
class Box:
    """Everything that a box is, in one folder, while it does not run."""

    folder: Path

    @property
    def disk(self) -> Disk:
        """Its disk."""
        return Disk(self.folder / "disk.raw")

    @property
    def variables(self) -> Path:
        """What its firmware remembers: Secure Boot keys, boot order."""
        return self.folder / "variables.fd"

    @property
    def tpm(self) -> Path:
        """Its TPM: state, and the vendor's CA certificates."""
        return self.folder / "tpm"

    @property
    def vendor_cas(self) -> Path:
        """The CA certificates of its TPM's simulated vendor, PEM: what a hub must know."""
        return self.tpm / VENDOR_CAS

    @property
    def identity(self) -> uuid.UUID:
        """Its SMBIOS UUID, which is its machine id."""
        return uuid.UUID((self.folder / "identity").read_text("ascii").strip())

    @classmethod
    def new(cls, folder: Path, image: Image, vendor: Path) -> Box:
        """A box as the flasher leaves it: the image on a disk, our keys in its firmware, a TPM nobody used.

        :param vendor: folder of the simulated TPM vendor's CA.
        """
        folder.mkdir(parents=True)
        box = cls(folder)
        copy_sparse(image.raw, box.disk.path)
        box.disk.grow(GROWN)
        firmware.with_keys(box.variables, build_keys().secure_boot)
        make_tpm(box.tpm, vendor)
        (folder / "identity").write_text(f"{uuid.uuid4()}\n", "ascii")
        return box

    def copy(self, folder: Path) -> Box:
        """The same box a second time, to be hurt: everything it has, as it was left."""
        folder.mkdir(parents=True)
        other = Box(folder)
        copy_sparse(self.disk.path, other.disk.path)
        shutil.copyfile(self.variables, other.variables)
        copy_tpm(self.tpm, other.tpm)
        shutil.copyfile(self.folder / "identity", folder / "identity")
        return other

    def other_tpm(self, vendor: Path) -> None:
        """Exchange its TPM for a new one: what happens to a disk that is put into another box."""
        if not self.tpm.is_dir():
            raise VmError("the box has no TPM")
        shutil.rmtree(self.tpm)
        make_tpm(self.tpm, vendor)

    def without_secure_boot(self) -> None:
        """Forget all Secure Boot keys, as in the firmware's setup: whatever is on the disk then starts."""
        firmware.without_keys(self.variables)

    def forget(self) -> None:
        """Remove the disk, which is what is large; logs stay."""
        self.disk.path.unlink(missing_ok=True)

    def hardware(self, tpm: Path | None, networks: tuple[Network, ...] | None = None) -> Hardware:
        """The machine it runs as, with all defaults. :param networks: one user network if left out."""
        return Hardware(
            firmware.Firmware(firmware.code(), self.variables),
            (Drive(self.disk.path, serial="box-disk", boot=1),),
            tpm=tpm,
            networks=(UserNetwork(),) if networks is None else networks,
            identity=self.identity,
        )

    @contextmanager
    def running(
        self,
        name: str = "box",
        *,
        networks: tuple[Network, ...] | None = None,
        **changes: object,
    ) -> Iterator[Machine]:
        """Switch it on. :param name: of this boot, for its logs. :param changes: of its :class:`Hardware`."""
        with SoftwareTpm(self.tpm / "state", self.folder / f"{name}.tpm") as tpm:
            hardware = replace(self.hardware(tpm.socket, networks), **changes)  # type: ignore[arg-type] # checked by name
            with Machine(hardware, self.folder, name) as machine:
                yield machine
