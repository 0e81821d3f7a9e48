# SPDX-License-Identifier: Apache-2.0
"""The keys of a build: Secure Boot and verity, two for PCR 11, one for releases.

A release is built with keys that were made offline and put into a folder. Where there are none they are made here, for
development: an image signed with them is worth what the build machine is worth, and the build says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import RefusedError
from appliance.firmware.keys import SecureBootKeys
from appliance.flash.release import load_release_key
from appliance.keys.files import PRIVATE, PUBLIC, write_atomically
from tools.image.errors import BuildError

PCR_KEYS: Final = ("initrd", "system")
"""``initrd`` signs PCR 11 for the initrd alone and opens the disk; ``system`` signs the running phases: the image
key."""


ELSEWHERE: Final = "RELEASE-KEY-ELSEWHERE"
"""A file of this name says that the release key is on another machine; of it there is ``release.pub``."""
DEVELOPMENT: Final = "DEVELOPMENT"
"""A file of this name beside the keys says that a build made them for itself."""


@dataclass(frozen=True, slots=True)
class BuildKeys:
    """A folder with all keys of a build. :param made: whether they were made just now, for development."""

    folder: Path
    secure_boot: SecureBootKeys
    made: bool

    @classmethod
    def given(cls, folder: Path) -> BuildKeys:
        """Keys that were made before, offline. :raises BuildError: one is missing; none is made."""
        release = "release.pub" if (folder / ELSEWHERE).exists() else "release.key"
        wanted = [*(f"pcr-{name}.key" for name in PCR_KEYS), release, "secure-boot"]
        if missing := [name for name in wanted if not (folder / name).exists()]:
            raise BuildError(
                f"{folder} has no {', '.join(missing)}", f"'python -m tools.image keys {folder}' makes a set of keys"
            )
        return cls.ready(folder)

    @classmethod
    def create(cls, folder: Path, release_pub: Path | None = None) -> BuildKeys:
        """A new set of keys for releases.

        :param release_pub: the public half of a release key that stays on another machine; none is made then.
        :raises BuildError: there is something already, or that is no such key.
        """
        if folder.exists() and any(folder.iterdir()):
            raise BuildError(f"{folder} is not empty", "keys are never overwritten: name another folder")
        if release_pub is not None:
            try:
                load_release_key(release_pub)
            except RefusedError as error:
                raise BuildError(error.detail, "it is a public key, EC P-256, PEM") from error
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(folder / "release.pub", release_pub.read_bytes(), PUBLIC)
            write_atomically(folder / ELSEWHERE, b"the release key is on another machine; see docs/image.md\n", PUBLIC)
        return cls.ready(folder, development=False)

    @classmethod
    def ready(cls, folder: Path, *, development: bool = True) -> BuildKeys:
        """The keys in a folder; what is missing is made. :param development: mark made ones as fit for nothing else."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        firmware = folder / "secure-boot"
        made = not firmware.is_dir()
        if made and development:
            write_atomically(folder / DEVELOPMENT, b"made by a build for itself; not for releases\n", PUBLIC)
        secure_boot = SecureBootKeys.create(firmware) if made else SecureBootKeys.load(firmware)
        for name in PCR_KEYS:
            _ensure(folder / f"pcr-{name}.key", folder / f"pcr-{name}.pub")
        if not (folder / ELSEWHERE).exists():
            _ensure(folder / "release.key", folder / "release.pub", curve=True)
        return cls(folder, secure_boot, made)

    @property
    def development(self) -> bool:
        """Whether a build made them for itself."""
        return (self.folder / DEVELOPMENT).exists()

    @property
    def signs_releases(self) -> bool:
        """Whether the release key is here, and not its public half alone."""
        return not (self.folder / ELSEWHERE).exists()

    def private(self, name: str) -> Path:
        """The private key of a name."""
        return self.folder / f"{name}.key"

    def public(self, name: str) -> Path:
        """The public key of a name, PEM."""
        return self.folder / f"{name}.pub"


def _ensure(private: Path, public: Path, *, curve: bool = False) -> None:
    """Make a key unless it is there. TPMs verify PCR signatures with RSA 2048, as systemd makes them."""
    if not private.exists():
        key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = (
            ec.generate_private_key(ec.SECP256R1()) if curve else rsa.generate_private_key(65537, 2048)
        )
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        write_atomically(private, key.private_bytes(encoding, form, serialization.NoEncryption()), PRIVATE)
    loaded = serialization.load_pem_private_key(private.read_bytes(), None)
    pem = loaded.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    write_atomically(public, pem, PUBLIC)
