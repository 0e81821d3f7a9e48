# SPDX-License-Identifier: Apache-2.0
"""Simulates a TPM vendor: makes the state of a software TPM with an endorsement key that a vendor's CA certifies.

**For development and tests alone**: whoever can read the files has the keys. With it a software TPM enrols by the same
steps as one of hardware. ``swtpm_setup`` does the work (Debian packages ``swtpm`` and ``swtpm-tools``; the latter
brings ``gnutls-bin``); no root is needed. Blocking.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.files import PRIVATE, PUBLIC, locked, sync_folder, write_atomically

PACKAGES: Final = ("swtpm", "swtpm-tools", "gnutls-bin")
"""Debian packages that a software TPM with a certificate needs."""
STATE: Final = "state"
"""The folder of the TPM's state, for ``swtpm --tpmstate dir=``; it exists only when it is whole."""
VENDOR: Final = "vendor"
"""The folder of the simulated vendor's CA."""
VENDOR_CAS: Final = "vendor-cas.pem"
"""The vendor's CA certificates, root last: what a hub must have in its folder of TPM vendors."""
DEADLINE_S: Final = 60
"""Seconds that the making may take; it takes one."""
_LIFETIME: Final = timedelta(days=36500)
_PROGRAMS: Final = ("swtpm", "swtpm_setup", "swtpm_localca", "swtpm_cert")


@dataclass(frozen=True, slots=True)
class MadeTpm:
    """A software TPM that was made. :param state: its state folder. :param vendor_cas: PEM, the vendor's CAs."""

    state: Path
    vendor_cas: bytes


def make_software_tpm(folder: Path, vendor: Path | None = None) -> MadeTpm:
    """Make a software TPM in ``folder``, unless it is there; may be killed anywhere and called again.

    :param vendor: the vendor's CA folder, to be shared by several TPMs; ``folder/vendor`` if left out.
    :raises UnavailableError: ``child_failed``: a program is missing (the detail names the packages) or failed.
    """
    vendor = vendor or folder / VENDOR
    for path in (folder, vendor.parent):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(vendor.parent):
        _ensure_vendor(vendor)
    with locked(folder):
        if not (folder / STATE).is_dir():
            _make_state(folder, vendor)
    return MadeTpm(folder / STATE, (vendor / VENDOR_CAS).read_bytes())


def _make_state(folder: Path, vendor: Path) -> None:
    """Make the state beside its place and move it there when it is whole."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise UnavailableError(
            Reason.CHILD_FAILED, f"{', '.join(missing)} not found; install the packages {' '.join(PACKAGES)}"
        )
    for left in folder.glob(".making-*"):
        shutil.rmtree(left)
    making = folder / f".making-{secrets.token_hex(4)}"
    (making / STATE).mkdir(mode=0o700, parents=True)
    log = making / "log"
    command = [
        "swtpm_setup",
        "--tpm2",
        *("--tpm-state", str(making / STATE)),
        *("--config", str(_configure(making, vendor))),
        "--create-ek-cert",
        *("--rsa-keysize", "2048"),
        *("--pcr-banks", "sha256"),
        "--overwrite",
        *("--logfile", str(log)),
    ]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(Reason.CHILD_FAILED, f"swtpm_setup: {error}") from error
    if done.returncode:
        text = log.read_text("utf-8", "replace") if log.exists() else done.stderr.decode("utf-8", "replace")
        raise UnavailableError(Reason.CHILD_FAILED, f"swtpm_setup ended with {done.returncode}: {text[-500:]}")
    (making / STATE / ".lock").unlink(missing_ok=True)
    (making / STATE).rename(folder / STATE)
    sync_folder(folder)
    shutil.rmtree(making)


def _configure(making: Path, vendor: Path) -> Path:
    """The configuration of swtpm_setup and swtpm_localca for this vendor (swtpm_setup.conf(5), swtpm-localca(8))."""
    local, options, setup = making / "localca.conf", making / "localca.options", making / "setup.conf"
    local.write_text(
        f"statedir = {vendor}\n"
        f"signingkey = {vendor / 'signkey.pem'}\n"
        f"issuercert = {vendor / 'issuercert.pem'}\n"
        f"certserial = {vendor / 'certserial'}\n"
    )
    options.write_text("--platform-manufacturer bsfg\n--platform-version 1\n--platform-model swtpm\n")
    setup.write_text(
        f"create_certs_tool = {shutil.which('swtpm_localca')}\n"
        f"create_certs_tool_config = {local}\n"
        f"create_certs_tool_options = {options}\n"
    )
    return setup


def _ensure_vendor(vendor: Path) -> None:
    """A root and an intermediate CA, as real vendors have; the folder exists only when it is whole."""
    if vendor.is_dir():
        return
    making = vendor.with_name(f".{vendor.name}-{secrets.token_hex(4)}")
    making.mkdir(mode=0o700)
    root_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    root = _ca("BSFG simulated TPM vendor root", root_key, "BSFG simulated TPM vendor root", root_key)
    issuer = _ca("BSFG simulated TPM vendor", key, "BSFG simulated TPM vendor root", root_key)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomically(making / "signkey.pem", key.private_bytes(*form), PRIVATE)
    chain = [certificate.public_bytes(serialization.Encoding.PEM) for certificate in (issuer, root)]
    write_atomically(making / "issuercert.pem", chain[0], PUBLIC)
    write_atomically(making / VENDOR_CAS, b"".join(chain), PUBLIC)
    making.rename(vendor)
    sync_folder(vendor.parent)


def _ca(name: str, key: rsa.RSAPrivateKey, issuer_name: str, issuer_key: rsa.RSAPrivateKey) -> x509.Certificate:
    now = datetime.now(UTC).replace(microsecond=0)
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
