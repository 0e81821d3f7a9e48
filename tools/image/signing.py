# SPDX-License-Identifier: Apache-2.0
"""Signatures of EFI programs, whose time is that of everything built: the same program has the same signature."""

from __future__ import annotations

import time
from pathlib import Path

from tools.image.keys import BuildKeys
from tools.image.toolstree import ToolsTree


def at_time(epoch: int) -> tuple[str, ...]:
    """What is put before a command that must see the clock stand still at a time. :param epoch: Unix seconds."""
    return ("faketime", "-f", time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(epoch)))


def sign_program(tools: ToolsTree, keys: BuildKeys, program: Path, signed: Path, epoch: int) -> None:
    """Sign an EFI program for Secure Boot. :param program: as the tools see it."""
    key, certificate = keys.secure_boot.db_key, keys.secure_boot.db_certificate
    command = ("sbsign", "--key", key, "--cert", certificate, "--output", signed, program)
    tools.run([*at_time(epoch), *command], cwd=signed.parent)
