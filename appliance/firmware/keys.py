# SPDX-License-Identifier: Apache-2.0
"""The Secure Boot keys of a site, in a folder that stays offline: PK, KEK and db, what the variables hold, updates.

PK (the platform's owner) signs changes of PK and KEK, KEK signs changes of db and dbx, db signs what may boot. Each
change makes a new generation, a folder of its own with everything in it, and then moves the one file ``current``: a
crash leaves the old generation or the new, whole. Nothing is ever overwritten or deleted.

::

    current           number of the generation that holds
    0001/owner        whose entries these are: a GUID
    0001/PK.key       private key, mode 0600, encrypted if there is a passphrase; so KEK.key, db.key
    0001/PK.crt       certificate (PEM); so KEK.crt, db.crt
    0001/PK.esl       what the variable holds once all updates are applied; so KEK.esl, db.esl, dbx.esl
    0001/updates/     the signed updates that lead here from the generation before, in their order
"""

from __future__ import annotations

import hashlib
import secrets
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware.efi import KeyVariable, certificate_list, digest_list, parse_lists
from appliance.firmware.signed import SignedUpdate, parse_update, sign_update
from appliance.keys.files import PRIVATE, PUBLIC, sync_folder, write_atomically
from appliance.keys.operators import MINIMUM_PASSPHRASE

RSA_BITS: Final = 2048
"""What every firmware takes; some refuse longer keys."""
LIFETIME: Final = timedelta(days=20 * 365)
"""Firmware does not look at it; tools that sign do."""
NAME: Final = "BSFG"
NAME_CHARACTERS: Final = 32
ROLES: Final = (KeyVariable.PK, KeyVariable.KEK, KeyVariable.DB)
_NOTHING: Final = hashlib.sha256(b"").digest()
"""The first entry of dbx, the digest of no bytes: some firmware does not take an empty list."""
_CURRENT: Final = "current"
_UPDATES: Final = "updates"
_TITLES: Final = {
    KeyVariable.PK: "Secure Boot platform key",
    KeyVariable.KEK: "Secure Boot key exchange key",
    KeyVariable.DB: "Secure Boot image signing key",
}


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where one key is. :param key: PKCS #8 PEM, perhaps encrypted. :param crt: X.509, PEM."""

    key: Path
    crt: Path

    @property
    def encrypted(self) -> bool:
        """Whether the key needs a passphrase. :raises RefusedError: ``firmware_keys``: it is not there."""
        try:
            return b"ENCRYPTED" in self.key.read_bytes().partition(b"\n")[0]
        except OSError as error:
            raise RefusedError(Reason.FIRMWARE_KEYS, f"{self.key}: {error}") from error

    def certificate(self) -> x509.Certificate:
        """Read the certificate. :raises RefusedError: ``firmware_keys``."""
        try:
            return x509.load_pem_x509_certificate(self.crt.read_bytes())
        except (OSError, ValueError) as error:
            raise RefusedError(Reason.FIRMWARE_KEYS, f"{self.crt}: {error}") from error

    def open(self, passphrase: str | None = None) -> rsa.RSAPrivateKey:
        """Read the private key.

        :raises RefusedError: ``firmware_keys``: not there, another passphrase, or not the certificate's key.
        """
        try:
            word = None if passphrase is None else passphrase.encode()
            key = serialization.load_pem_private_key(self.key.read_bytes(), word if self.encrypted else None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise RefusedError(Reason.FIRMWARE_KEYS, f"{self.key}: {error}") from error
        if not isinstance(key, rsa.RSAPrivateKey) or key.public_key() != self.certificate().public_key():
            raise RefusedError(Reason.FIRMWARE_KEYS, f"{self.key} is not the key of {self.crt.name}")
        return key


@dataclass(frozen=True, slots=True)
class SecureBootKeys:
    """One generation of keys.

    :param root: the folder of all generations. :param generation: counts from 1. :param contents: of each variable.
    """

    root: Path
    generation: int
    owner: UUID
    contents: Mapping[KeyVariable, bytes]

    @property
    def folder(self) -> Path:
        """Where this generation is."""
        return self.root / f"{self.generation:04}"

    @property
    def pk(self) -> KeyPair:
        """The platform key."""
        return self.pair(KeyVariable.PK)

    @property
    def kek(self) -> KeyPair:
        """The key exchange key."""
        return self.pair(KeyVariable.KEK)

    @property
    def db(self) -> KeyPair:
        """The key that signs what may boot."""
        return self.pair(KeyVariable.DB)

    @property
    def db_key(self) -> Path:
        """The private key that signs images."""
        return self.db.key

    @property
    def db_certificate(self) -> Path:
        """Its certificate."""
        return self.db.crt

    def pair(self, role: KeyVariable) -> KeyPair:
        """The key of a role."""
        return KeyPair(self.folder / f"{role}.key", self.folder / f"{role}.crt")

    def updates(self) -> tuple[tuple[str, SignedUpdate], ...]:
        """Names and content of the updates that lead to this generation, in their order."""
        found = []
        for path in sorted((self.folder / _UPDATES).glob("*.auth")):
            _, _, what = path.stem.partition("-")
            name, _, mode = what.partition("-")
            if name not in set(KeyVariable) or mode not in {"", "append"}:
                raise RefusedError(Reason.FIRMWARE_KEYS, f"{path}: not named as an update is")
            update = parse_update(path.read_bytes(), KeyVariable(name), append=mode == "append")
            found.append((path.name, update))
        return tuple(found)

    @property
    def when(self) -> datetime:
        """The time of the last update; the next must be newer."""
        return max(update.when for _, update in self.updates())

    def public_files(self) -> dict[str, bytes]:
        """What an image carries, so that a box can tell whether its firmware holds these keys; nothing secret."""
        return {f"{variable}.esl": self.contents[variable] for variable in KeyVariable}

    @classmethod
    def create(
        cls,
        root: Path,
        *,
        name: str = NAME,
        passphrase: str | None = None,
        owner: UUID | None = None,
        now: datetime | None = None,
    ) -> SecureBootKeys:
        """Make the first generation in a folder that is not there or is empty.

        :param name: whose keys these are, for the certificates: at most 32 characters.
        :raises RefusedError: ``firmware_keys``: the folder has something in it, or the name does not do.
        """
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            raise RefusedError(Reason.FIRMWARE_KEYS, f"{root} is not empty; keys are never overwritten")
        if not 1 <= len(name) <= NAME_CHARACTERS or not name.isprintable():
            raise RefusedError(Reason.FIRMWARE_KEYS, f"a name has 1 to {NAME_CHARACTERS} printable characters")
        if passphrase is not None and len(passphrase) < MINIMUM_PASSPHRASE:
            raise RefusedError(Reason.FIRMWARE_KEYS, f"a passphrase has at least {MINIMUM_PASSPHRASE} characters")
        when = (now or datetime.now(UTC)).replace(microsecond=0)
        holder = owner or uuid.uuid4()
        made = {role: new_key(role, name, 1, when) for role in ROLES}
        contents = {
            role: certificate_list(holder, certificate.public_bytes(serialization.Encoding.DER)).render()
            for role, (_, certificate) in made.items()
        }
        contents[KeyVariable.DBX] = digest_list(holder, _NOTHING).render()
        updates = [
            sign_update(variable, contents[variable], when, *made[signer], append=False)
            for variable, signer in (
                (KeyVariable.DB, KeyVariable.KEK),
                (KeyVariable.DBX, KeyVariable.KEK),
                (KeyVariable.KEK, KeyVariable.PK),
                (KeyVariable.PK, KeyVariable.PK),  # last: it ends setup mode
            )
        ]
        files = {f"{role}.key": private_pem(key, passphrase) for role, (key, _) in made.items()}
        files |= {
            f"{role}.crt": certificate.public_bytes(serialization.Encoding.PEM)
            for role, (_, certificate) in made.items()
        }
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return write_generation(root, 1, holder, contents, files, updates)

    @classmethod
    def load(cls, root: Path) -> SecureBootKeys:
        """The generation that holds; private keys are not read.

        :raises RefusedError: ``firmware_keys``: no such folder, or a file in it is missing or not as it should be.
        """
        try:
            generation = int((root / _CURRENT).read_text("ascii"))
            folder = root / f"{generation:04}"
            owner = UUID((folder / "owner").read_text("ascii").strip())
            contents = {variable: (folder / f"{variable}.esl").read_bytes() for variable in KeyVariable}
        except (OSError, ValueError) as error:
            raise RefusedError(Reason.FIRMWARE_KEYS, f"{root}: {error}") from error
        keys = cls(root, generation, owner, contents)
        for variable, content in contents.items():
            held = {entry.data for one in parse_lists(content) for entry in one.signatures}
            if variable in ROLES:
                certificate = keys.pair(variable).certificate()
                if certificate.public_bytes(serialization.Encoding.DER) not in held:
                    raise RefusedError(Reason.FIRMWARE_KEYS, f"{folder}: {variable}.crt is not in {variable}.esl")
        return keys


def known_contents(folder: Path) -> dict[KeyVariable, bytes]:
    """What the variables should hold: of a folder of keys, or of the public files that an image carries.

    :raises RefusedError: ``firmware_keys``: it is neither.
    """
    if (folder / _CURRENT).exists():
        return dict(SecureBootKeys.load(folder).contents)
    try:
        contents = {variable: (folder / f"{variable}.esl").read_bytes() for variable in KeyVariable}
    except OSError as error:
        raise RefusedError(Reason.FIRMWARE_KEYS, f"{folder}: {error}") from error
    for content in contents.values():
        parse_lists(content)
    return contents


def new_key(role: KeyVariable, name: str, number: int, now: datetime) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    """A key with a certificate of its own. :param number: the generation it begins with, for its name."""
    key = rsa.generate_private_key(65537, RSA_BITS)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} {_TITLES[role]} {number}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + LIFETIME)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return key, builder.sign(key, hashes.SHA256())


def private_pem(key: rsa.RSAPrivateKey, passphrase: str | None) -> bytes:
    """PKCS #8, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)


def write_generation(
    root: Path,
    number: int,
    owner: UUID,
    contents: Mapping[KeyVariable, bytes],
    files: Mapping[str, bytes],
    updates: list[SignedUpdate],
) -> SecureBootKeys:
    """Write a generation whole, and only then make it the one that holds.

    A folder of this number that is there already was left by a crash before that; it is put aside, not removed.
    """
    kept = SecureBootKeys(root, number, owner, contents)
    work = root / f".{number:04}.{secrets.token_hex(4)}"
    try:
        work.mkdir(mode=0o700)
        (work / _UPDATES).mkdir()
        write_atomically(work / "owner", f"{owner}\n".encode(), PUBLIC)
        for name, data in files.items():
            write_atomically(work / name, data, PRIVATE if name.endswith(".key") else PUBLIC)
        for variable, content in contents.items():
            write_atomically(work / f"{variable}.esl", content, PUBLIC)
        for place, update in enumerate(updates, 1):
            write_atomically(work / _UPDATES / _update_name(place, update), update.render(), PUBLIC)
        if kept.folder.exists():
            kept.folder.rename(root / f".{number:04}.unfinished.{secrets.token_hex(4)}")
        work.rename(kept.folder)
        sync_folder(root)
        write_atomically(root / _CURRENT, f"{number}\n".encode(), PUBLIC)
    except OSError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise RefusedError(Reason.FIRMWARE_KEYS, f"{root}: {error}") from error
    return kept


def _update_name(place: int, update: SignedUpdate) -> str:
    return f"{place}-{update.variable}{'-append' if update.append else ''}.auth"
