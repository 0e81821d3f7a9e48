# SPDX-License-Identifier: Apache-2.0
"""The unified kernel image, made a second time: now with the root hash's signature in a second initrd.

mkosi knows the root hash only when the root partition is made, which is when its own kernel image is being assembled;
the signature is made with the partition. The kernel demands it (``dm_verity.require_signatures=1``), and takes it from
a file.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.firmware.pe import sections
from tools.image.errors import BuildError
from tools.image.keys import BuildKeys
from tools.image.sandbox import ukify_settings
from tools.image.signing import at_time, sign_program
from tools.image.toolstree import ToolsTree

SIGNATURE_FILE: Final = "etc/roothash.p7s"
_SECTIONS: Final = (".initrd", ".osrel", ".uname", ".cmdline")
_MICROCODE: Final = ".ucode"
"""Only of the profile for real processors."""
KERNEL: Final = "lists/dpkg/vmlinuz"
"""The kernel as it was packaged, below the folder of work: ``image/mkosi.postinst`` keeps it."""
INSTALLER_OPTIONS: Final = (
    "systemd.unit=bsfg-installer.target",
    "rd.fstab=no",  # nothing of the machine's disks is opened
    "fstab=no",
    "systemd.volatile=state",  # what would go to /var goes to memory
)
MAXIMUM_BYTES: Final = 40 * 1024**2


@dataclass(frozen=True, slots=True)
class Uki:
    """An assembled kernel image. :param roothash: of the only root it starts, hex."""

    path: Path
    roothash: str


def assemble(tools: ToolsTree, keys: BuildKeys, out: Path, work: Path, command_line: Sequence[str], epoch: int) -> Uki:
    """Make ``appliance.efi`` anew from mkosi's, in place.

    :param epoch: the time that its signatures name: the same parts and keys make the same kernel image.
    """
    parts = work / "uki"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    made = out / "appliance.efi"
    found_sections = {one.name: one.data for one in sections(made.read_bytes())}
    for name in (*_SECTIONS, *({_MICROCODE} & found_sections.keys())):
        (parts / name[1:]).write_bytes(found_sections[name])
    found = re.search(r"\broothash=([0-9a-f]{64})\b", (parts / "cmdline").read_text("utf-8", "replace"))
    if not found:
        raise BuildError("mkosi's kernel image names no root hash")
    signature = signature_initrd(tools, out / "appliance.sig.raw", parts)
    (parts / "cmdline").write_text(" ".join([f"roothash={found[1]}", *command_line]), "utf-8")
    (parts / "uname").write_bytes((parts / "uname").read_bytes().rstrip(b"\0\n"))
    (parts / "ukify.conf").write_text(ukify_settings(keys), "utf-8")
    sign_program(tools, keys, work / KERNEL, parts / "linux", epoch)
    command = _ukify(keys, parts, signature, parts / "appliance.efi")
    tools.run([*at_time(epoch), *command], cwd=parts, log=work / "ukify.log")
    shutil.move(parts / "appliance.efi", made)
    if made.stat().st_size > MAXIMUM_BYTES:
        raise BuildError(f"the kernel image has {made.stat().st_size} bytes, more than {MAXIMUM_BYTES}")
    return Uki(made, found[1])


def assemble_installer(
    tools: ToolsTree, keys: BuildKeys, out: Path, work: Path, uki: Uki, options: Sequence[str], epoch: int
) -> Path:
    """The boot entry that copies a stick to a disk: the same kernel and initrds, another command line.

    Its PCR 11 is signed by nobody: what it starts opens no disk and uses no boundary key.

    :param work: with the parts that :func:`assemble` left. :param options: of its command line, root hash left out.
    """
    parts = work / "uki"
    (parts / "cmdline").write_text(" ".join([f"roothash={uki.roothash}", *options, *INSTALLER_OPTIONS]), "utf-8")
    (parts / "ukify.conf").write_text("[UKI]\nPCRBanks=sha256\n", "utf-8")
    release = (parts / "osrel").read_text("utf-8").rstrip("\0").splitlines()
    lines = [line for line in release if not line.startswith("PRETTY_NAME=")]
    (parts / "osrel").write_text("\n".join([*lines, 'PRETTY_NAME="Install on a disk of this machine"', ""]), "utf-8")
    made = out / "installer.efi"
    command = _ukify(keys, parts, parts / "signature.cpio", made)
    tools.run([*at_time(epoch), *command], cwd=parts, log=work / "ukify-installer.log")
    return made


def _ukify(keys: BuildKeys, parts: Path, signature: Path, out: Path) -> list[str | Path]:
    microcode = parts / _MICROCODE[1:]
    return [
        *("ukify", "build", "--config", parts / "ukify.conf", "--linux", parts / "linux"),
        *("--initrd", parts / "initrd", "--initrd", signature, "--cmdline", f"@{parts / 'cmdline'}"),
        *("--os-release", f"@{parts / 'osrel'}", "--uname", (parts / "uname").read_text("utf-8"), "--no-sign-kernel"),
        *("--secureboot-private-key", keys.secure_boot.db_key),
        *("--secureboot-certificate", keys.secure_boot.db_certificate, "--output", out),
        *(("--microcode", microcode) if microcode.exists() else ()),
    ]


def signature_initrd(tools: ToolsTree, partition: Path, parts: Path) -> Path:
    """An initrd with nothing but the root hash's PKCS#7 signature, out of the signature partition (a JSON document)."""
    document = json.loads(partition.read_bytes().rstrip(b"\0"))
    folder = parts / "signature"
    file = folder / SIGNATURE_FILE
    file.parent.mkdir(parents=True)
    file.write_bytes(base64.b64decode(document["signature"], validate=True))
    for path in (file, file.parent):
        os.utime(path, (0, 0))
    out = parts / "signature.cpio"
    names = f"{Path(SIGNATURE_FILE).parent}\\n{SIGNATURE_FILE}\\n"
    pack = f"printf '{names}' | cpio --quiet -o -H newc --reproducible -R 0:0 > {out}"
    tools.run(["bash", "-euo", "pipefail", "-c", pack], cwd=folder)
    return out
