# SPDX-License-Identifier: Apache-2.0
"""Make a hub's enrolment office, once; what is there stays. Blocking; may be killed anywhere and called again."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId, identity_of
from appliance.boundary.reasons import Reason
from appliance.hub.enrolment.folder import ATTEST_EVERY_S, AuthorityKind, EnrolmentConfig, EnrolmentFolder
from appliance.keys.certificates import Authority, certificate_pem, new_hub_ca
from appliance.keys.enrolment.hubside import TOKEN_KEY_BYTES
from appliance.keys.files import PRIVATE, PUBLIC, locked, write_atomically
from appliance.keys.keeper.client import ask_keeper


@dataclass(frozen=True, slots=True)
class OfficePlan:
    """What a new office is to be.

    :param pki_dir: the hub's registry. :param passphrase: for the hub CA's key; ``None``: it is not encrypted.
    :param hub_ca: the certificate of the site's CA, for the authority ``external``.
    :param keeper: the socket of the hub's keeper, for the authority ``tpm``.
    :param vendors, release_operators, enrolment_operators, image_keys, site_roots: PEM files to take in.
    """

    zone: ZoneId
    pki_dir: Path
    authority: AuthorityKind = AuthorityKind.FILE
    passphrase: str | None = None
    attest_every_s: int = ATTEST_EVERY_S
    hub_ca: Path | None = None
    keeper: Path | None = None
    vendors: Sequence[Path] = ()
    release_operators: Sequence[Path] = ()
    enrolment_operators: Sequence[Path] = ()
    image_keys: Sequence[Path] = ()
    site_roots: Sequence[Path] = ()


def init_office(path: Path, plan: OfficePlan, now: datetime) -> EnrolmentFolder:
    """Make what is missing of an office. The configuration comes last: without it there is no office.

    :raises RefusedError: ``bad_input``: a file cannot be taken in, or it is another zone's office; ``bad_key``: a
        file has no public key.
    :raises BsfgError: with the authority ``tpm``, as the keeper says.
    """
    folder = EnrolmentFolder(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(path):
        if not folder.token_key.exists():
            write_atomically(folder.token_key, secrets.token_bytes(TOKEN_KEY_BYTES), PRIVATE)
        for target, files in (
            (folder.vendors, plan.vendors),
            (folder.release_operators, plan.release_operators),
            (folder.enrolment_operators, plan.enrolment_operators),
            (folder.image_keys, plan.image_keys),
            (folder.site_roots, plan.site_roots),
        ):
            target.mkdir(mode=0o755, exist_ok=True)
            for file in files:
                _take(file, target)
        if not folder.document.exists():  # one that is made keeps its authority, whatever the plan says
            _ensure_authority(folder, plan, now)
        folder.demands()
        folder.voucher_operators()
        if not folder.document.exists():
            write_atomically(folder.document, _document(plan).encode(), PUBLIC)
    zone = EnrolmentConfig.load(folder).zone
    if zone != plan.zone:
        raise RefusedError(Reason.BAD_INPUT, f"{path} is the office of zone {zone}")
    return folder


def _take(file: Path, target: Path) -> None:
    name = file.name if file.suffix in {".pem", ".pub"} else f"{file.name}.pem"
    try:
        data = file.read_bytes()
        if not (target / name).is_file() or (target / name).read_bytes() != data:
            write_atomically(target / name, data, PUBLIC)
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{file}: {error.strerror}") from error


def _ensure_authority(folder: EnrolmentFolder, plan: OfficePlan, now: datetime) -> None:
    if plan.authority is AuthorityKind.EXTERNAL:
        if not folder.hub_ca.exists():
            if plan.hub_ca is None:
                raise RefusedError(Reason.BAD_INPUT, "the certificate of the site's CA is needed")
            write_atomically(folder.hub_ca, certificate_pem(_certificate(plan.hub_ca)), PUBLIC)
        return
    if plan.authority is AuthorityKind.TPM:
        if plan.passphrase is not None:
            raise RefusedError(Reason.BAD_INPUT, "the hub CA's key is in the TPM; there is none to encrypt")
        write_atomically(folder.hub_ca, certificate_pem(_hub_ca_of(plan)), PUBLIC)
        return
    if plan.authority is AuthorityKind.EXTERNAL_LEAF and not any(folder.site_roots.glob("*.pem")):
        raise RefusedError(Reason.BAD_INPUT, "the roots of the site's PKI are needed")
    if not folder.authority.exists():
        write_atomically(
            folder.authority,
            authority_pem(new_hub_ca(now, f"{identity_of(plan.zone)} hub CA"), plan.passphrase),
            PRIVATE,
        )


def _hub_ca_of(plan: OfficePlan) -> x509.Certificate:
    """What the hub's keeper has. :raises BsfgError: as the keeper says."""
    if plan.keeper is None:
        raise RefusedError(Reason.BAD_INPUT, "the socket of the hub's keeper is needed")
    zone = ask_keeper(plan.keeper, lambda keeper: keeper.status()).zone
    if zone != plan.zone:
        raise RefusedError(Reason.BAD_INPUT, f"that keeper is zone {zone}'s, not the hub's")
    return x509.load_der_x509_certificate(ask_keeper(plan.keeper, lambda keeper: keeper.hub_ca()))


def authority_pem(authority: Authority, passphrase: str | None) -> bytes:
    """Key and certificate of a hub CA in one PEM text. :param passphrase: ``None``: the key is not encrypted."""
    if passphrase is None:
        return authority.pem()
    key = authority.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(passphrase.encode()),
    )
    return key + certificate_pem(authority.certificate)


def _certificate(path: Path) -> x509.Certificate:
    """A CA's certificate; connections can be checked against it, which ask no less (X509_V_FLAG_X509_STRICT).

    :raises RefusedError: ``bad_input``: it is none.
    """
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    except (OSError, ValueError, x509.ExtensionNotFound, x509.InvalidVersion) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: {error}") from error
    if not basic.critical or not basic.value.ca or basic.value.path_length == 0 or not usage.key_cert_sign:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: not a CA that may sign CA certificates")
    return certificate


def _document(plan: OfficePlan) -> str:
    lines = [
        "# SPDX-License-Identifier: Apache-2.0",
        "[enrolment]",
        f"zone = {json.dumps(plan.zone)}",
        f"pki_dir = {json.dumps(str(plan.pki_dir.absolute()))}",
        f"attest_every_s = {plan.attest_every_s}",
        "[authority]",
        f"kind = {json.dumps(plan.authority.value)}",
    ]
    if plan.authority is AuthorityKind.TPM and plan.keeper is not None:
        lines.append(f"keeper = {json.dumps(str(plan.keeper.absolute()))}")
    return "\n".join(lines) + "\n"
