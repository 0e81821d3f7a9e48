# SPDX-License-Identifier: Apache-2.0
"""A plain Debian 13 to boot beside the appliance: the same kernel and systemd, nothing of ours.

It is not Debian's own cloud image, which cannot be had from a package mirror: that has cloud-init and more, and takes
longer. It is made by the same mkosi with its default initrd, an ext4 root, no signatures and no encrypted disk.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from tools.image.build import COMPONENTS
from tools.image.mirror import Mirror
from tools.image.places import Places
from tools.image.sandbox import sandbox_tree
from tools.image.toolstree import ToolsTree

ABOUT: Final = (
    "plain Debian 13: linux-image-cloud-amd64, systemd, udev, dbus, a login prompt; mkosi's default initrd; ext4"
)
_CONFIGURATION: Final = """\
[Distribution]
Distribution=debian
Release=trixie
Architecture=x86-64

[Output]
Format=disk
ImageId=plain
Output=plain
SectorSize=512

[Content]
Bootable=yes
Bootloader=systemd-boot
UnifiedKernelImages=yes
WithDocs=no
WithRecommends=no
RootPassword=hashed:!
Locale=C.UTF-8
KernelCommandLine=console=ttyS0 quiet systemd.firstboot=no
Packages=
  systemd
  systemd-boot
  systemd-boot-efi
  systemd-sysv
  udev
  dbus
  kmod
  login
  util-linux
  linux-image-cloud-amd64
"""


def plain_debian(places: Places, tools: ToolsTree, mirror: Mirror) -> Path:
    """Its disk image, made if it is not there."""
    out = places.build / "out/plain"
    raw, mark = out / "plain.raw", out / "plain.conf"
    if raw.is_file() and mark.is_file() and mark.read_text("utf-8") == _CONFIGURATION:
        return raw
    work = places.work("plain")
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(out, ignore_errors=True)
    configuration, space = work / "configuration", work / "space"
    for folder in (configuration, space, out):
        folder.mkdir(parents=True)
    (configuration / "mkosi.conf").write_text(_CONFIGURATION, "utf-8")
    seen = sandbox_tree(work / "sandbox", mirror, COMPONENTS["cloud"])
    command: list[str | Path] = [
        *("mkosi", "--force", f"--output-directory={out}", f"--workspace-directory={space}"),
        *(f"--package-cache-dir={places.cache}", f"--sandbox-tree={seen}", "build"),
    ]
    tools.run(command, cwd=configuration, log=work / "mkosi.log")
    mark.write_text(_CONFIGURATION, "utf-8")
    return raw
