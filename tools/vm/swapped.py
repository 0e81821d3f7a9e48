# SPDX-License-Identifier: Apache-2.0
"""Other contents for the partition of ``/var``: what somebody puts there who has the disk, or the box, on the bench.

Made as files by the tools tree's programs. The true LUKS volume's UUID and the partition's label are public, so a
replacement can carry both.
"""

from __future__ import annotations

import base64
import json
import uuid
from pathlib import Path

from appliance.flash.gpt import Partition
from tools.vm.children import run
from tools.vm.disk import Disk, blank
from tools.vm.faults import VmError
from tools.vm.images import tools_tree
from tools.vm.tpm import served_by_tcp

MARKER = "swapped-by-the-test"
"""A file at the top of each replacement: where it is seen, somebody else's ``/var`` is in use."""


def plain_ext4(target: Path, size: int, tree: Path | None = None) -> None:
    """A file system that is not encrypted. :param tree: what is in it; the marker if left out."""
    folder = tree or _marked(target.with_suffix(".tree"))
    blank(target, size)
    run(["mkfs.ext4", "-q", "-L", "var", "-d", folder, target])


def luks_uuid(disk: Disk, var: Partition) -> uuid.UUID:
    """The UUID of the LUKS volume in a partition, which anybody can read."""
    header = disk.read(var, 0, 4096)
    if header[:6] != b"LUKS\xba\xbe":
        raise VmError("the partition holds no LUKS volume")
    return uuid.UUID(header[168:208].rstrip(b"\0").decode("ascii"))


def luks_with_passphrase(target: Path, size: int, passphrase: str, identity: uuid.UUID) -> None:
    """A LUKS2 volume with the true one's UUID, that a known passphrase opens, with a file system and the marker."""
    _repart(target, size, passphrase.encode())
    run(["cryptsetup", "luksUUID", "--batch-mode", "--uuid", str(identity), target])


def luks_sealed_to(state: Path, target: Path, size: int, identity: uuid.UUID, tree: Path | None = None) -> None:
    """The same, opened by a token that was sealed on the box's own TPM, with no policy at all.

    :param state: of the TPM, which does not run now. :param tree: what is in it beside the marker.
    """
    with served_by_tcp(state, target.with_suffix(".swtpm")) as device:
        _repart(target, size, None, device, tree)
    run(["cryptsetup", "luksUUID", "--batch-mode", "--uuid", str(identity), target])


def unpacked(packed: str, folder: Path) -> Path:
    """A tree out of a tar archive in base64, with owners and modes as on the box; the folder."""
    folder.mkdir(parents=True)
    archive = folder.with_suffix(".tar.xz")
    archive.write_bytes(base64.b64decode(packed))
    tools_tree().run(["tar", "--numeric-owner", "-xpJf", archive, "-C", folder], cwd=folder)
    return folder


def _repart(
    target: Path, size: int, passphrase: bytes | None, tpm: str | None = None, tree: Path | None = None
) -> None:
    """Let systemd-repart make one encrypted partition in an image of its own, and cut it out."""
    folder = target.with_suffix(".parts")
    definitions = folder / "repart.d"
    definitions.mkdir(parents=True)
    content = _marked(tree or folder / "tree")
    lines = ["[Partition]", "Type=var", "Label=var", "Format=ext4", f"CopyFiles={content}:/"]
    lines += [f"SizeMinBytes={size}", f"SizeMaxBytes={size}", "Encrypt=tpm2" if tpm else "Encrypt=key-file"]
    (definitions / "10-var.conf").write_text("\n".join(lines) + "\n", "utf-8")
    image = folder / "image.raw"
    command: list[str | Path] = ["systemd-repart", "--empty=create", f"--size={size + (8 << 20)}", "--dry-run=no"]
    command += ["--offline=yes", f"--definitions={definitions}", "--sector-size=512"]
    if tpm:
        command += [f"--tpm2-device={tpm}", "--tpm2-pcrs=", "--tpm2-public-key-pcrs="]
    if passphrase is not None:
        (folder / "key").write_bytes(passphrase)
        command += [f"--key-file={folder / 'key'}"]
    tools_tree().run([*command, image], cwd=folder)
    made = Disk(image)
    made.extract(made.partition("var"), target)
    if target.stat().st_size > size:
        raise VmError(f"the replacement has {target.stat().st_size} bytes, and only {size} fit")


def tokens(disk: Disk, var: Partition) -> list[dict[str, object]]:
    """The tokens of a LUKS2 volume, as its header has them in clear text."""
    text = disk.read(var, 4096, 12288).partition(b"\0")[0]
    document = json.loads(text)
    return list(document.get("tokens", {}).values())


def _marked(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).write_text("this is not the box's own /var\n", "utf-8")
    return folder
