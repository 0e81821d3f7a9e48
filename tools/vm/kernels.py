# SPDX-License-Identifier: Apache-2.0
"""Variants of a unified kernel image: other command line, other version, signed or not, for PCR 11 or not.

Made with the build's own keys where a variant is signed: what a thief of those keys, or an older release, could do.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from tools.image.sandbox import ukify_settings
from tools.vm import pe
from tools.vm.faults import VmError
from tools.vm.images import build_keys, tools_tree

_PARTS: Final = ("linux", "initrd", "osrel", "uname", "cmdline")
_STUB: Final = "/usr/lib/systemd/boot/efi/addonx64.efi.stub"


def variant(
    uki: Path,
    folder: Path,
    *,
    command_line: str | None = None,
    version: str | None = None,
    signed: bool = True,
    for_pcr: bool = True,
) -> Path:
    """A kernel image made anew from the parts of another.

    :param folder: an empty one inside the checkout's ``build``, where programs of the tools tree see it.
    :param command_line: another one; as it was if left out. :param version: another ``IMAGE_VERSION``.
    :param signed: for Secure Boot. :param for_pcr: with signatures over its PCR 11, which open ``/var`` and keys.
    """
    keys, tools = build_keys(), tools_tree()
    folder.mkdir(parents=True)
    content = pe.read(uki)
    for name in _PARTS:
        (folder / name).write_bytes(pe.section(content, f".{name}"))
    text = (folder / "cmdline").read_bytes().rstrip(b"\0\n").decode() if command_line is None else command_line
    (folder / "cmdline").write_text(text, "utf-8")
    release = (folder / "osrel").read_bytes().rstrip(b"\0").decode()
    if version is not None:
        release = re.sub(r"(?m)^IMAGE_VERSION=.*$", f"IMAGE_VERSION={version}", release)
    (folder / "osrel").write_text(release, "utf-8")
    uname = (folder / "uname").read_bytes().rstrip(b"\0\n").decode()
    out = folder / "variant.efi"
    (folder / "ukify.conf").write_text(ukify_settings(keys) if for_pcr else "", "utf-8")
    sign = _signing() if signed else []
    tools.run(
        [
            *("ukify", "build", "--config", folder / "ukify.conf", "--linux", folder / "linux"),
            *("--initrd", folder / "initrd", "--cmdline", f"@{folder / 'cmdline'}"),
            *("--os-release", f"@{folder / 'osrel'}", "--uname", uname, "--no-sign-kernel", *sign, "--output", out),
        ],
        cwd=folder,
    )
    return out


def command_line(uki: Path) -> str:
    """The command line in a kernel image."""
    return pe.section(pe.read(uki), ".cmdline").rstrip(b"\0\n").decode()


def root_hash(line: str) -> str:
    """The root hash on a command line. :raises VmError: there is none."""
    found = re.search(r"\broothash=([0-9a-f]{64})\b", line)
    if not found:
        raise VmError("the command line names no root hash")
    return found[1]


def addon(folder: Path, command_line: str, *, signed: bool = True) -> Path:
    """A command-line add-on (``*.addon.efi``) as systemd-stub takes it from the ESP."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "attack.addon.efi"
    sign = _signing() if signed else []
    command: list[str | Path] = ["ukify", "build", "--stub", _STUB, "--cmdline", command_line, *sign, "--output", out]
    tools_tree().run(command, cwd=folder)
    return out


def resigned(uki: Path, folder: Path, key: Path, certificate: Path) -> Path:
    """The same kernel image, signed by another key for Secure Boot."""
    folder.mkdir(parents=True, exist_ok=True)
    bare, out = folder / "bare.efi", folder / "resigned.efi"
    bare.write_bytes(pe.unsigned(pe.read(uki)))
    tools_tree().run(["sbsign", "--key", key, "--cert", certificate, "--output", out, bare], cwd=folder)
    return out


def _signing() -> list[str | Path]:
    keys = build_keys().secure_boot
    return ["--secureboot-private-key", keys.db_key, "--secureboot-certificate", keys.db_certificate]
