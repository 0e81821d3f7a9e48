# SPDX-License-Identifier: Apache-2.0
"""What is generated for mkosi: the tree that its sandbox sees, and the tree that is copied over the root."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Final

from tools.image.keys import PCR_KEYS, BuildKeys
from tools.image.mirror import Mirror, apt_settings, preferences
from tools.image.toolstree import ToolsTree

INITRD_PHASE: Final = "enter-initrd"
RUNNING_PHASES: Final = (
    "enter-initrd:leave-initrd",
    "enter-initrd:leave-initrd:sysinit",
    "enter-initrd:leave-initrd:sysinit:ready",
)
IPE_POLICY: Final = """policy_name=appliance policy_version=0.0.1
DEFAULT action=ALLOW
DEFAULT op=EXECUTE action=DENY
op=EXECUTE boot_verified=TRUE action=ALLOW
op=EXECUTE dmverity_signature=TRUE action=ALLOW
"""
"""Integrity Policy Enforcement (kernel documentation, admin-guide/LSM/ipe): programs and libraries run from the initrd
and from a verity volume with a signed root hash; from anywhere else they do not."""


def sandbox_tree(tree: Path, mirror: Mirror, components: str) -> Path:
    """How mkosi's apt reaches packages. If that very file of sources exists, mkosi writes none of its own."""
    shutil.rmtree(tree, ignore_errors=True)
    apt = tree / "etc/apt"
    for name in ("sources.list.d", "preferences.d", "apt.conf.d"):
        (apt / name).mkdir(parents=True)
    (apt / "sources.list.d/mkosi.sources").write_text(mirror.sources(components), "utf-8")
    (apt / "preferences.d/broker").write_text(preferences(), "utf-8")
    (apt / "apt.conf.d/50machine").write_text(apt_settings(), "utf-8")
    return tree


def ukify_settings(keys: BuildKeys) -> str:
    """PCR 11 is signed twice: for the initrd by one key, for the running phases by the other."""
    lines = ["[UKI]", "PCRBanks=sha256", f"PCRPKey={keys.public('pcr-initrd')}"]
    for name, phases in zip(PCR_KEYS, ((INITRD_PHASE,), RUNNING_PHASES), strict=True):
        lines += [
            f"[PCRSignature:{name}]",
            f"PCRPrivateKey={keys.private(f'pcr-{name}')}",
            f"PCRPublicKey={keys.public(f'pcr-{name}')}",
            f"Phases={' '.join(phases)}",
        ]
    return "\n".join(lines) + "\n"


def image_facts(tree: Path, keys: BuildKeys, version: str, profile: str, epoch: int) -> None:
    """Write what the running box knows of its image, and the public keys it trusts."""
    ours, systemd = tree / "usr/lib/bsfg", tree / "etc/systemd"
    for folder in (ours, systemd):
        folder.mkdir(parents=True, exist_ok=True)
    facts = {"version": version, "profile": profile, "built_unix_s": epoch}
    (ours / "image.json").write_text(json.dumps(facts, sort_keys=True) + "\n", "utf-8")
    (ours / "build-time").write_text(f"{epoch}\n", "utf-8")
    shutil.copyfile(keys.public("pcr-system"), ours / "image-key.pem")
    shutil.copyfile(keys.public("release"), ours / "release-key.pem")
    firmware = ours / "firmware/keys"
    firmware.mkdir(parents=True)
    for name, data in keys.secure_boot.public_files().items():
        (firmware / name).write_bytes(data)
    # Found first by systemd-creds; the one in the UKI is the initrd's.
    shutil.copyfile(keys.public("pcr-system"), systemd / "tpm2-pcr-public-key.pem")


def ipe_policy(tree: Path, tools: ToolsTree, keys: BuildKeys, work: Path) -> None:
    """Sign the execution policy; PID 1 loads and activates it before it starts anything."""
    folder = tree / "usr/lib/ipe"
    folder.mkdir(parents=True, exist_ok=True)
    source = work / "ipe-policy"
    source.write_text(IPE_POLICY, "utf-8")
    sign: list[str | Path] = ["openssl", "smime", "-sign", "-in", source, "-signer", keys.secure_boot.db_certificate]
    options = ["-noattr", "-nodetach", "-nosmimecap", "-binary", "-outform", "der"]
    tools.run([*sign, "-inkey", keys.secure_boot.db_key, *options, "-out", folder / "appliance.p7b"], cwd=work)
