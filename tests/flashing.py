# SPDX-License-Identifier: Apache-2.0
"""A small image with the parts of the real one, and a release made of it by the code that makes real ones.

Its partitions: an EFI system partition (FAT, if mtools are there; else bytes), slot A with a root that verity covers,
and an empty slot B.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import subprocess
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.flash.gpt import (
    ESP,
    MIB,
    ROOT_VERITY_SIG_X86_64,
    ROOT_VERITY_X86_64,
    ROOT_X86_64,
    SECTOR,
    Partition,
    PartitionTable,
)
from tools.image.release import ReleaseInputs, assemble

IMAGE_BYTES = 16 * MIB
VERSION = "0.1.0"
BUILT = 1_780_000_000
SALT = bytes(range(32))
HAS_MTOOLS = shutil.which("mcopy") is not None
BLOCK = 4096


def hash_tree(data: bytes, salt: bytes = SALT) -> tuple[bytes, bytes]:
    """Root hash, and a hash partition: superblock and tree."""
    level = [hashlib.sha256(salt + data[at : at + BLOCK]).digest() for at in range(0, len(data), BLOCK)]
    levels = []
    while len(level) > 1:
        packed = b"".join(level)
        packed = packed.ljust(-(-len(packed) // BLOCK) * BLOCK, b"\0")
        levels.append(packed)
        level = [hashlib.sha256(salt + packed[at : at + BLOCK]).digest() for at in range(0, len(packed), BLOCK)]
    fields = (b"verity\0\0", 1, 1, bytes(16), b"sha256", BLOCK, BLOCK, len(data) // BLOCK, len(salt), salt)
    block = struct.pack("<8sII16s32sIIQH6x256s", *fields).ljust(BLOCK, b"\0")
    return level[0], block + b"".join(reversed(levels))


@dataclass(frozen=True)
class SmallImage:
    """An image as bytes. :param root_hash: 64 hex digits."""

    raw: bytes
    table: PartitionTable
    root_hash: str


def small_image(seed: int = 1, *, size: int = IMAGE_BYTES, version: str = VERSION) -> SmallImage:
    """An image; another seed, another content."""
    dice = random.Random(seed)
    root = dice.randbytes(2 * MIB) + bytes(64 << 10) + dice.randbytes(BLOCK) + bytes(3 * BLOCK)
    digest, tree = hash_tree(root)
    spans = [  # kind, id, first MiB, last MiB, label
        (ESP, uuid.UUID(int=seed), 1, 5, "esp"),
        (ROOT_X86_64, uuid.UUID(bytes=digest[:16]), 5, 9, f"appliance_{version}"),
        (ROOT_VERITY_X86_64, uuid.UUID(bytes=digest[16:]), 9, 10, f"appliance_{version}_verity"),
        (ROOT_VERITY_SIG_X86_64, uuid.UUID(int=4), 10, 11, f"appliance_{version}_sig"),
        (ROOT_X86_64, uuid.UUID(int=5), 11, 13, "_empty"),
        (ROOT_VERITY_X86_64, uuid.UUID(int=6), 13, 14, "_empty"),
        (ROOT_VERITY_SIG_X86_64, uuid.UUID(int=7), 14, 15, "_empty"),
    ]
    per = MIB // SECTOR
    parts = [Partition(kind, own, a * per, b * per - 1, 0, label) for kind, own, a, b, label in spans]
    table = PartitionTable(uuid.UUID(int=99), size // SECTOR, tuple(parts))
    head, tail = table.render(size)
    raw = bytearray(size)
    raw[: len(head)], raw[size - len(tail) :] = head, tail
    esp = file_system(dice) if HAS_MTOOLS else dice.randbytes(MIB)
    for start, content in ((1, esp), (5, root), (9, tree), (10, dice.randbytes(BLOCK))):
        raw[start * MIB : start * MIB + len(content)] = content
    return SmallImage(bytes(raw), table, digest.hex())


def file_system(dice: random.Random) -> bytes:
    """A FAT file system of 4 MiB with a boot file in it."""
    with tempfile.NamedTemporaryFile() as file:
        file.truncate(4 * MIB)
        mtools("mformat", file.name, "-T", str(4 * MIB // SECTOR), "-N", "12345678", "::")
        mtools("mmd", file.name, "::/EFI")
        mtools("mcopy", file.name, "-", "::/EFI/boot.efi", given=dice.randbytes(100_000))
        return Path(file.name).read_bytes()


def mtools(tool: str, image: str, *arguments: str, given: bytes = b"") -> bytes:
    """Run one of mtools on a file (``FILE@@OFFSET``); what it prints."""
    done = subprocess.run([tool, "-i", image, *arguments], input=given, check=True, capture_output=True)
    return done.stdout


FILES = [
    {"path": "/usr/bin/true", "owner": "deb:coreutils"},
    {"path": "/usr/lib/x86_64-linux-gnu/libc.so.6", "owner": "deb:libc6"},
    {"path": "/usr/lib/bsfg/venv/lib/python3.13/site-packages/trio/__init__.py", "owner": "py:trio"},
    {"path": "/usr/lib/systemd/system/bsfg-agent.service", "owner": "own"},
    {"path": "/etc/machine-id", "owner": "generated:empty, filled at boot"},
]
PACKAGES = [
    {"name": "coreutils", "version": "9.7-3", "architecture": "amd64", "source": "coreutils", "licence": "GPL-3+"}
    | {
        "linked": [
            {"kind": "deb-source", "name": "golang-go.crypto", "version": "1:0.57.0-2"},
            {"kind": "golang", "name": "github.com/nats-io/jwt/v2", "version": "v2.8.2"},
        ]
    },
    {"name": "libc6", "version": "2.41-12+deb13u1", "architecture": "amd64", "source": "glibc", "licence": "LGPL-2.1+"},
    {"name": "trio", "version": "0.35.0", "architecture": "python", "source": "", "licence": "MIT OR Apache-2.0"},
    {"name": "tzdata", "version": "2026b-0+deb13u1", "architecture": "all", "source": "tzdata", "licence": "odd words"},
]


def described(files: list[dict[str, str]]) -> list[dict[str, object]]:
    """A list of files with checksums and sizes."""
    made = []
    for item in files:
        data = item["path"].encode()
        sums = {"sha256": hashlib.sha256(data).hexdigest(), "sha1": hashlib.sha1(data).hexdigest()}  # noqa: S324
        made.append({**item, **sums, "size": len(data)})
    return made


def new_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """A release key in a file, and its public half beside it with ``.pub``."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    form, nothing = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, form, nothing))
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return key


def measurements(image: SmallImage) -> bytes:
    """In place of the image builder's; a flash does not read them."""
    return f'{{"format":"bsfg-measurements-1","root":"{image.root_hash}"}}\n'.encode()


def inputs(folder: Path, image: SmallImage, *, profile: str = "cloud") -> ReleaseInputs:
    """What a build leaves, in a folder."""
    folder.mkdir(exist_ok=True)
    (folder / "appliance.raw").write_bytes(image.raw)
    (folder / "files.json").write_text(json.dumps(described(FILES)))
    (folder / "packages.json").write_text(json.dumps(PACKAGES))
    key = folder / "release.key"
    if not key.exists():
        new_key(key)
    names = folder / "files.json", folder / "packages.json"
    measured = folder / "measurements.json"
    measured.write_bytes(measurements(image))
    return ReleaseInputs(folder, VERSION, profile, *names, key, BUILT, image.root_hash, extra=(measured,))


@dataclass(frozen=True)
class SmallRelease:
    """A release in a folder. :param public: its key's file."""

    folder: Path
    image: SmallImage
    private: Path
    public: Path

    @property
    def packed(self) -> Path:
        """The compressed image."""
        return next(self.folder.glob("*.raw.zst"))

    @property
    def key(self) -> ec.EllipticCurvePublicKey:
        """The public key."""
        loaded = serialization.load_pem_public_key(self.public.read_bytes())
        assert isinstance(loaded, ec.EllipticCurvePublicKey)
        return loaded


def small_release(folder: Path, image: SmallImage | None = None) -> SmallRelease:
    """Make a release below a folder."""
    folder.mkdir(exist_ok=True)
    image = image or small_image()
    made = inputs(folder / "build", image)
    out = folder / "release"
    assemble(made, out)
    assert made.key is not None
    return SmallRelease(out, image, made.key, made.key.with_suffix(".pub"))
