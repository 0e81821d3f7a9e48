# SPDX-License-Identifier: Apache-2.0
"""``bsfg firmware keys``: make, rotate, revoke and show Secure Boot keys; on a machine that stays offline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.files import FOLDER
from appliance.cli.output import output_option, print_json, print_table
from appliance.cli.passphrase import passphrase, passphrase_option

if TYPE_CHECKING:
    from appliance.firmware.keys import SecureBootKeys

F = TypeVar("F", bound=Callable[..., Any])
_INPUT: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


def folder_option() -> Callable[[F], F]:
    """The option ``--dir``: the folder of the keys."""
    return click.option(
        "--dir",
        "folder",
        required=True,
        type=FOLDER,
        help="Folder of the keys; it belongs on a machine or a stick that stays offline.",
    )


@click.group()
def keys() -> None:
    """Secure Boot keys: PK owns the machine, KEK changes what may boot, db signs it."""


@keys.command()
@folder_option()
@click.option("--name", default="BSFG", show_default=True, help="Whose keys these are; it stands in the certificates.")
@click.option("--passphrase-file", type=_INPUT, help="Encrypt the private keys with the first line of this file.")
@output_option("text", "json")
def create(folder: Path, name: str, passphrase_file: Path | None, output: str) -> None:
    """Make PK, KEK and db, and the signed updates that enrol them. Never overwrites anything."""
    from appliance.firmware.keys import SecureBootKeys

    word = passphrase(passphrase_file) if passphrase_file else None
    _show(SecureBootKeys.create(folder, name=name, passphrase=word), output)
    if word is None and output == "text":
        click.echo("the private keys are not encrypted: keep the folder where nobody else gets at it", err=True)


@keys.command()
@click.argument("role", type=click.Choice(["db", "KEK", "PK"]))
@folder_option()
@passphrase_option()
@output_option("text", "json")
def rotate(role: str, folder: Path, passphrase_file: Path | None, output: str) -> None:
    """Make a new key for ROLE, and the signed update that brings boxes to it.

    The old db key stays allowed until it is revoked; an old KEK or PK is replaced by the update.
    """
    from appliance.firmware import changes
    from appliance.firmware.efi import KeyVariable
    from appliance.firmware.keys import SecureBootKeys

    loaded = SecureBootKeys.load(folder)
    word = _word(loaded, passphrase_file)
    _show(changes.rotate(loaded, KeyVariable(role), passphrase=word), output)


@keys.command()
@folder_option()
@click.option("--certificate", "certificates", type=_INPUT, multiple=True, help="Of a db key that signs no more, PEM.")
@click.option("--program", "programs", type=_INPUT, multiple=True, help="An EFI program, such as a kernel image.")
@click.option("--digest", "digests", multiple=True, help="The digest of a program (Authenticode, SHA-256): 64 digits.")
@passphrase_option()
@output_option("text", "json")
def revoke(
    folder: Path,
    certificates: tuple[Path, ...],
    programs: tuple[Path, ...],
    digests: tuple[str, ...],
    passphrase_file: Path | None,
    output: str,
) -> None:
    """Make the signed update after which boxes start something no more: all that a key signed, or one program."""
    from cryptography import x509

    from appliance.firmware import changes
    from appliance.firmware.keys import SecureBootKeys
    from appliance.firmware.pe import authenticode

    try:
        named = [bytes.fromhex(digest) for digest in digests]
        parsed = [x509.load_pem_x509_certificate(path.read_bytes()) for path in certificates]
        named += [authenticode(path.read_bytes()) for path in programs]
    except (OSError, ValueError) as error:
        raise RefusedError(Reason.BAD_INPUT, str(error)) from error
    loaded = SecureBootKeys.load(folder)
    word = _word(loaded, passphrase_file)
    _show(changes.revoke(loaded, certificates=parsed, digests=named, passphrase=word), output)


@keys.command()
@folder_option()
@output_option("text", "json")
def show(folder: Path, output: str) -> None:
    """Show the keys that hold now, what is revoked, the updates that lead here, and what PCR 7 will be."""
    from appliance.firmware.keys import SecureBootKeys

    _show(SecureBootKeys.load(folder), output)


def _word(loaded: SecureBootKeys, file: Path | None) -> str | None:
    """The passphrase, if these keys have one."""
    return passphrase(file) if loaded.kek.encrypted else None


def _show(loaded: SecureBootKeys, output: str) -> None:
    from appliance.firmware.changes import revoked
    from appliance.firmware.keys import ROLES
    from appliance.firmware.signed import fingerprint

    certificates = {role: loaded.pair(role).certificate() for role in ROLES}
    named = {role: certificate.subject.rfc4514_string() for role, certificate in certificates.items()}
    values = _pcr7(loaded)
    entries = len(revoked(loaded)) - 1  # the first is the digest of nothing
    updates = [str(loaded.folder / "updates" / name) for name, _ in loaded.updates()]
    if output == "json":
        details = {
            role: {
                "name": named[role],
                "sha256": fingerprint(certificates[role]),
                "certificate": str(loaded.pair(role).crt),
                "encrypted": loaded.pair(role).encrypted,
            }
            for role in ROLES
        }
        print_json(
            {
                "folder": str(loaded.folder),
                "generation": loaded.generation,
                "owner": str(loaded.owner),
                "keys": details,
                "revoked": entries,
                "updates": updates,
                "pcr7": values,
            }
        )
        return
    rows = [[role, named[role].removeprefix("CN="), fingerprint(certificates[role])] for role in ROLES]
    print_table(["key", "name", "SHA-256 of its certificate"], rows)
    click.echo(
        f"\ngeneration  {loaded.generation}, in {loaded.folder}\nowner       {loaded.owner}\nrevoked     {entries}"
    )
    for update in updates:
        click.echo(f"update      {update}")
    for signer, value in values.items():
        click.echo(f"PCR 7       {value}   image signed by db key {signer[:16]}")


def _pcr7(loaded: SecureBootKeys) -> dict[str, str]:
    """What PCR 7 will be, for each db key that is not revoked, by its certificate's SHA-256: oldest first."""
    import hashlib

    from appliance.firmware.changes import revoked
    from appliance.firmware.efi import CERT_X509, KeyVariable, parse_lists
    from appliance.firmware.measurements import expected_pcr7

    gone = set(revoked(loaded))
    held = [one for one in parse_lists(loaded.contents[KeyVariable.DB]) if one.kind == CERT_X509]
    signers = [entry.data for one in held for entry in one.signatures if entry.data not in gone]
    return {hashlib.sha256(der).hexdigest(): expected_pcr7(loaded.contents, der).hex() for der in signers}
