# SPDX-License-Identifier: Apache-2.0
"""The folder of a hub's enrolment office, and its configuration ``enrolment.toml``. Relative paths are relative to it.

::

    enrolment.toml       see below
    enrolment.db         what was decided (:mod:`appliance.hub.enrolment.store`)
    token.key            the key of the challenges' tokens; private
    authority.pem        the hub CA's key and certificate; private (authority "file" and "external-leaf")
    hub-ca.pem           the certificate of the CA that signs device CAs (authority "tpm" and "external")
    vendors/*.pem        CA certificates of TPM vendors
    release-operators/*  public keys of the operators who release boxes
    enrolment-operators/* public keys of the operators whose vouchers count
    image-keys/*         public keys of image builders
    measurements.json    the published images; by choice
    site-roots/*.pem     roots of the site's PKI (authority "external-leaf")
    requests/ certificates/   what goes to the site's PKI, and comes back

Example of ``enrolment.toml``::

    [enrolment]
    zone = "enterprise"
    pki_dir = "../pki"           # the hub's registry: hub-ca.pem, zones/, denied.json; written here
    attest_every_s = 300         # how often boxes shall show a quote
    [authority]
    kind = "file"                # or "tpm", "external", "external-leaf"
    keeper = "…/keeper.sock"     # with "tpm" alone: the socket of the hub's keeper
    passphrase_file = "…"        # by choice, when authority.pem is encrypted
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Self, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.boundary.sections import Section
from appliance.hub.enrolment.authority import (
    DeviceAuthority,
    ExternalAuthority,
    ExternalLeafAuthority,
    KeeperAuthority,
    OwnAuthority,
    PkiExchange,
    is_encrypted,
    read_authority,
)
from appliance.hub.measurements import MeasurementsFile
from appliance.keys.enrolment.hubside import TOKEN_KEY_BYTES, SiteDemands
from appliance.keys.enrolment.vendors import TpmVendors
from appliance.keys.files import parse_toml
from appliance.keys.folder import PkiFolder
from appliance.keys.tpm.identity import load_p256, load_rsa

K = TypeVar("K", ec.EllipticCurvePublicKey, rsa.RSAPublicKey)
ATTEST_EVERY_S: Final = 300


class AuthorityKind(StrEnum):
    """Who signs device CAs; see :mod:`appliance.hub.enrolment.authority`."""

    FILE = "file"
    TPM = "tpm"
    EXTERNAL = "external"
    EXTERNAL_LEAF = "external-leaf"


@dataclass(frozen=True, slots=True)
class EnrolmentFolder:
    """Where the enrolment office keeps its things."""

    path: Path

    @property
    def document(self) -> Path:
        """The configuration."""
        return self.path / "enrolment.toml"

    @property
    def fleet(self) -> Path:
        """When the hub last heard from whom (:mod:`appliance.hub.fleet`)."""
        return self.path / "fleet.json"

    @property
    def evidence(self) -> Path:
        """Evidence of quarantines that operators imported, a folder for each zone."""
        return self.path / "evidence"

    @property
    def database(self) -> Path:
        """What was decided."""
        return self.path / "enrolment.db"

    @property
    def token_key(self) -> Path:
        """The key of the challenges' tokens."""
        return self.path / "token.key"

    @property
    def authority(self) -> Path:
        """The hub CA's key and certificate."""
        return self.path / "authority.pem"

    @property
    def hub_ca(self) -> Path:
        """The certificate of the CA that signs device CAs, when it is not the hub's own."""
        return self.path / "hub-ca.pem"

    @property
    def vendors(self) -> Path:
        """CA certificates of TPM vendors."""
        return self.path / "vendors"

    @property
    def release_operators(self) -> Path:
        """Public keys of the operators who release boxes."""
        return self.path / "release-operators"

    @property
    def enrolment_operators(self) -> Path:
        """Public keys of the operators whose vouchers count."""
        return self.path / "enrolment-operators"

    @property
    def image_keys(self) -> Path:
        """Public keys of image builders."""
        return self.path / "image-keys"

    @property
    def measurements(self) -> Path:
        """The published images."""
        return self.path / "measurements.json"

    @property
    def site_roots(self) -> Path:
        """Roots of the site's PKI."""
        return self.path / "site-roots"

    def read_token_key(self) -> bytes:
        """The key of the tokens. :raises UnavailableError: ``office_unusable``: it is not there."""
        try:
            key = self.token_key.read_bytes()
        except OSError as error:
            raise UnavailableError(Reason.OFFICE_UNUSABLE, f"{self.token_key}: {error.strerror}") from error
        if len(key) != TOKEN_KEY_BYTES:
            raise UnavailableError(Reason.OFFICE_UNUSABLE, f"{self.token_key}: not {TOKEN_KEY_BYTES} bytes")
        return key

    def demands(self) -> SiteDemands:
        """What this site demands of every box.

        :raises RefusedError: ``bad_key``, ``bad_input`` with the file; the measurements' own reasons.
        :raises DeniedError: the measurements are not signed by an image key, or older than those seen before.
        """
        image_keys = _keys(self.image_keys, load_rsa)
        measurements = MeasurementsFile(self.measurements, lambda: image_keys)
        found = measurements.current()
        if measurements.problem is not None:
            raise measurements.problem
        operators = _keys(self.release_operators, load_p256)
        return SiteDemands(TpmVendors.load(self.vendors), operators, image_keys, found)

    def stamp(self) -> object:
        """What tells that a file which :meth:`demands` reads was changed, put in or taken away."""
        folders = (self.vendors, self.release_operators, self.image_keys)
        paths = [path for folder in folders for path in sorted(folder.glob("*"))]
        states = [(path, path.stat()) for path in (*paths, self.measurements) if path.exists()]
        return [(path, state.st_mtime_ns, state.st_size, state.st_ino) for path, state in states]

    def voucher_operators(self) -> tuple[ec.EllipticCurvePublicKey, ...]:
        """The operators whose vouchers count. :raises RefusedError: ``bad_key``."""
        return _keys(self.enrolment_operators, load_p256)


@dataclass(frozen=True, slots=True)
class EnrolmentConfig:
    """What ``enrolment.toml`` says."""

    zone: ZoneId
    pki: PkiFolder
    attest_every_s: int
    authority: AuthorityKind
    passphrase_file: Path | None
    keeper: Path | None = None

    @classmethod
    def load(cls, folder: EnrolmentFolder) -> Self:
        """Read it. :raises RefusedError: ``bad_input`` with the field.

        :raises UnavailableError: ``office_unusable``: there is none.
        """
        path = folder.document
        try:
            return parse_toml(path, lambda root: cls._parse(root, folder.path))
        except OSError as error:
            raise UnavailableError(Reason.OFFICE_UNUSABLE, f"{path}: {error.strerror}; see 'bsfg hub init'") from error

    @classmethod
    def _parse(cls, root: Section, base: Path) -> Self:
        enrolment, authority = root.need("enrolment"), root.need("authority")
        kind, passphrase = authority.take("kind", str), authority.take("passphrase_file", str, "")
        if kind not in set(AuthorityKind):
            raise authority.refuse(f"kind {kind!r}: {', '.join(AuthorityKind)}")
        keeper = authority.take("keeper", str, "")
        if bool(keeper) != (kind == AuthorityKind.TPM):
            raise authority.refuse(f"keeper: needed with kind {AuthorityKind.TPM.value!r}, and with no other")
        config = cls(
            enrolment.zone(),
            PkiFolder(base / enrolment.take("pki_dir", str)),
            enrolment.take("attest_every_s", int, ATTEST_EVERY_S),
            AuthorityKind(kind),
            base / passphrase if passphrase else None,
            base / keeper if keeper else None,
        )
        for section in (enrolment, authority, root):
            section.end()
        if config.attest_every_s < 10:
            raise RefusedError(Reason.BAD_INPUT, "[enrolment] attest_every_s: at least 10")
        return config


def open_authority(
    folder: EnrolmentFolder, config: EnrolmentConfig, ask: Callable[[], str | None] = lambda: None
) -> DeviceAuthority:
    """Whoever signs device CAs here. :param ask: for the passphrase, when no file has it and it is needed.

    :raises UnavailableError: ``authority_unavailable``: its certificate cannot be read.
    """
    exchange = PkiExchange(folder.path)
    if config.authority is AuthorityKind.EXTERNAL:
        return ExternalAuthority(_certificates(folder.hub_ca)[0], exchange)
    if config.keeper is not None:
        return KeeperAuthority(_certificates(folder.hub_ca)[0], config.keeper)

    def passphrase() -> str | None:
        return config.passphrase_file.read_text("utf-8").partition("\n")[0] if config.passphrase_file else ask()

    own = OwnAuthority(_certificates(folder.authority)[0], lambda: read_authority(folder.authority, passphrase))
    if config.authority is AuthorityKind.FILE:
        return own
    roots = [root for path in sorted(folder.site_roots.glob("*.pem")) for root in _certificates(path)]
    return ExternalLeafAuthority(own, tuple(roots), exchange)


def asks_for_passphrase(folder: EnrolmentFolder) -> bool:
    """Whether somebody has to type the passphrase of the hub CA's key before it can sign.

    :raises RefusedError: ``bad_input``. :raises UnavailableError: ``office_unusable``: there is no office.
    """
    if EnrolmentConfig.load(folder).passphrase_file is not None or not folder.authority.exists():
        return False
    return is_encrypted(folder.authority.read_bytes())


def _certificates(path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UnavailableError(Reason.AUTHORITY_UNAVAILABLE, f"{path}: {error}") from error


def _keys(folder: Path, load: Callable[[bytes], K]) -> tuple[K, ...]:
    """All public keys of a folder's files; a file may hold several."""
    end = b"-----END PUBLIC KEY-----"
    found = []
    for path in sorted(folder.glob("*")):
        if path.suffix not in {".pem", ".pub"}:
            continue
        try:
            blocks = [block + end for block in path.read_bytes().split(end)[:-1]]
            found += [load(block) for block in blocks]
        except (OSError, BsfgError) as error:
            raise RefusedError(Reason.BAD_KEY, f"{path}: {error}") from error
        if not blocks:
            raise RefusedError(Reason.BAD_KEY, f"{path}: no public key")
    return tuple(found)
