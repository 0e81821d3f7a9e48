# SPDX-License-Identifier: Apache-2.0
"""``bsfg credential``: who may produce and read in a zone, and the certificate of its plant-side listeners."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import parse_category, parse_producer
from appliance.boundary.reasons import Reason
from appliance.cli.files import FOLDER
from appliance.cli.output import output_option, print_json, print_table

if TYPE_CHECKING:
    from appliance.keys.local.applications import Application, Issued
    from appliance.keys.local.store import Handed, LocalKeys

F = TypeVar("F", bound=Callable[..., Any])

_DAY_S: Final = 86_400
_SOON_S: Final = 30 * _DAY_S
"""Less than this is shown as ending soon."""
_DEFAULT_DAYS: Final = "365"
_ROLES: Final = ("producer", "consumer", "service")


@dataclass(frozen=True, slots=True)
class Place:
    """Where the keys are, and how the broker hears of a change.

    :param issued: where credentials are written if nobody says otherwise.
    :param tell: writes what the broker reads; says what is left to do.
    """

    keys: LocalKeys
    issued: Path
    tell: Callable[[], str]


def place_options() -> Callable[[F], F]:
    """The options that say whose credentials: of a development environment, or of a box."""

    def add(command: F) -> F:
        for option in (
            click.option(
                "--root-file",
                type=click.Path(exists=True, dir_okay=False, path_type=Path),
                help="On a box: where its secret root lies, if not in that folder.",
            ),
            click.option(
                "--local",
                "local_folder",
                type=FOLDER,
                help="On a box: the folder of its local keys, instead of --dir.",
            ),
            click.option("--zone", required=True, help="The zone whose applications these are."),
            click.option(
                "--dir",
                "folder",
                envvar="BSFG_DIR",
                type=FOLDER,
                help="Folder of the development environment (or the variable BSFG_DIR).",
            ),
        ):
            command = option(command)
        return command

    return add


def expires_option() -> Callable[[F], F]:
    """The option ``--expires``."""
    return click.option(
        "--expires",
        default=_DEFAULT_DAYS,
        show_default=True,
        help="Days that it is good for, by the clock of the box; or 'never'.",
    )


def out_option() -> Callable[[F], F]:
    """The option ``--out``."""
    return click.option(
        "--out",
        type=FOLDER,
        help="Folder for NAME.creds and NAME.token; 'issued' beside the keys if not given.",
    )


@click.group()
def credential() -> None:
    """Hand out, list, rotate and revoke credentials of local applications."""


@credential.command()
@click.argument("name")
@click.option("--role", type=click.Choice(_ROLES), required=True, help="What it may do: produce, read, or both.")
@click.option("--category", "categories", multiple=True, help="A category it may produce; every one if not given.")
@expires_option()
@out_option()
@place_options()
@output_option("text", "json")
def new(
    name: str,
    role: str,
    categories: tuple[str, ...],
    expires: str,
    out: Path | None,
    output: str,
    **where: Any,
) -> None:
    """Make a local application NAME with its first credential: a NATS credentials file and, to produce, a token."""
    from appliance.keys.local.applications import Role

    place = _place(**where)
    allowed = frozenset(map(parse_category, categories)) or None
    handed = place.keys.new(parse_producer(name), Role(role), allowed, life_s=_life_s(expires))
    _hand_over(place, handed, out, output)


@credential.command("list")
@place_options()
@output_option("table", "json")
def list_(output: str, **where: Any) -> None:
    """List the local applications and when their credentials end."""
    entries = _place(**where).keys.applications().local()
    if output == "json":
        print_json([_document(entry) for entry in entries])
        return
    print_table(["name", "role", "categories", "good", "ends", "revoked"], [_row(entry) for entry in entries])


@credential.command()
@click.argument("name")
@place_options()
@output_option("text", "json")
def show(name: str, output: str, **where: Any) -> None:
    """Show what is known of NAME. No secret is: credentials are kept by whoever got them."""
    _say(_document(_application(_place(**where).keys, name)), output)


@credential.command()
@click.argument("name")
@expires_option()
@click.option("--keep-old", is_flag=True, help="Leave the old ones good until the next rotation or revocation.")
@out_option()
@place_options()
@output_option("text", "json")
def rotate(name: str, expires: str, keep_old: bool, out: Path | None, output: str, **where: Any) -> None:
    """Give NAME another credential. The old ones are worthless at once, unless told otherwise."""
    place = _place(**where)
    handed = place.keys.rotate(parse_producer(name), life_s=_life_s(expires), keep_old=keep_old)
    _hand_over(place, handed, out, output)


@credential.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@place_options()
@output_option("text", "json")
def revoke(name: str, yes: bool, dry_run: bool, output: str, **where: Any) -> None:
    """Make all credentials of NAME worthless, and end its connections. 'agent' and 'sys' get new ones at once."""
    place = _place(**where)
    count = len(_application(place.keys, name).issued)
    if dry_run:
        _say({"name": name, "credentials": count, "state": "would be revoked"}, output)
        return
    if not yes:
        click.confirm(f"Revoke {count} credentials of {name}?", abort=True, err=True)
    place.keys.revoke(parse_producer(name))
    _say({"name": name, "credentials": count, "state": "revoked", "next": place.tell()}, output)


@credential.command()
@click.option("--name", "names", multiple=True, required=True, help="An address or DNS name that plant machines dial.")
@click.option("--rotate", "again", is_flag=True, help="Replace one that is still good.")
@place_options()
@output_option("text", "json")
def certificate(names: tuple[str, ...], again: bool, output: str, **where: Any) -> None:
    """See that the plant-side listeners have a certificate for these names; plant machines trust ca.pem."""
    from appliance.keys.local.authority import parse_plant_name

    place = _place(**where)
    authority, now = place.keys.authority(), datetime.now(UTC)
    wanted = [parse_plant_name(name) for name in names]
    if again:
        authority.rotate_server(wanted, now)
    replaced = again or authority.ensure_server(wanted, now)
    found = authority.server_certificate()
    values = {
        "names": list(names),
        "certificate": str(authority.server_file),
        "authority": str(place.keys.folder / "ca.pem"),
        "ends": "" if found is None else f"{found.not_valid_after_utc:%Y-%m-%d}",
        "replaced": replaced,
    }
    _say(values, output)


def _place(*, folder: Path | None, zone: str, local_folder: Path | None, root_file: Path | None) -> Place:
    """Whose keys. :raises RefusedError: ``bad_input``: neither or both of --dir and --local, an unknown zone."""
    from appliance.node.local import write_trust

    if (folder is None) == (local_folder is None):
        raise RefusedError(Reason.BAD_INPUT, "one of --dir (an environment) and --local (a box) is needed")
    if local_folder is not None:
        keys = _of_box(local_folder, zone, root_file)

        def tell() -> str:
            return f"written to {write_trust(keys)}; let nats-facts read it: systemctl reload nats-facts"

        return Place(keys, local_folder / "issued", tell)
    if root_file is not None:
        raise RefusedError(Reason.BAD_INPUT, "--root-file goes with --local")
    return _development(folder or Path(), zone)


def _of_box(folder: Path, zone: str, root_file: Path | None) -> LocalKeys:
    """A box's keys; a root that systemd has sealed is opened, for which root is needed on that box."""
    from appliance.boundary.names import parse_zone
    from appliance.keys.local.store import LocalKeys

    if root_file is not None or not (folder / "root.cred").exists():
        return LocalKeys.open(folder, parse_zone(zone), root_file=root_file)
    from appliance.box.layout import BoxLayout
    from appliance.box.local import box_seal
    from appliance.box.localkeys import opened_root

    layout = BoxLayout()
    if folder.resolve() != layout.local:
        raise RefusedError(
            Reason.BAD_INPUT, f"the root in {folder} is sealed; only its box opens it, in {layout.local}"
        )
    with opened_root(layout, box_seal(layout)) as opened:
        return LocalKeys.open(folder, parse_zone(zone), root_file=opened)


def _development(folder: Path, zone: str) -> Place:
    from appliance.boundary.names import parse_zone
    from appliance.dev.environment import Environment
    from appliance.dev.layout import ZONES
    from appliance.dev.provision import write_facts_config
    from appliance.keys.local.store import LocalKeys

    environment, found = Environment.load(folder), parse_zone(zone)
    if found not in ZONES:
        raise RefusedError(Reason.BAD_INPUT, f"--zone {zone!r}: {', '.join(ZONES)}")
    files = environment.layout.zone(found)
    keys = LocalKeys.open(files.local, found)

    def tell() -> str:
        write_facts_config(environment, found, keys)
        return "the broker reads it within a second, if it runs"

    return Place(keys, files.user("x").parent, tell)


def _life_s(expires: str) -> int | None:
    """:raises RefusedError: ``bad_input``."""
    if expires == "never":
        return None
    if not expires.isdigit() or not 0 < int(expires) <= 3650:
        raise RefusedError(Reason.BAD_INPUT, f"--expires {expires!r}: 1 to 3650 days, or 'never'")
    return int(expires) * _DAY_S


def _application(keys: LocalKeys, name: str) -> Application:
    entries = keys.applications().entries
    found = entries.get(parse_producer(name))
    if found is None:
        raise RefusedError(Reason.UNKNOWN_APPLICATION, name)
    return found


def _hand_over(place: Place, handed: Handed, out: Path | None, output: str) -> None:
    folder = out or place.issued
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        files = handed.write(folder)
    except OSError as error:
        hint = (
            f"{folder}: {error.strerror}; the credential was made and nobody has it: rotate {handed.application.name}"
        )
        raise RefusedError(Reason.BAD_INPUT, hint) from error
    issued = handed.application.issued[-1]
    values = {
        "name": handed.application.name,
        "role": handed.application.role,
        "files": [str(path) for path in files],
        "public": issued.public,
        "ends": _ends(issued),
        "next": place.tell(),
    }
    _say(values, output)


def _document(entry: Application) -> dict[str, Any]:
    return {
        "name": entry.name,
        "role": entry.role,
        "categories": "all" if entry.categories is None else sorted(entry.categories),
        "credentials": [
            {
                "public": issued.public,
                "issued": _time(issued.issued_at),
                "ends": _ends(issued),
                "good": not issued.is_over(time.time()),
                "token": issued.token is not None,
            }
            for issued in entry.issued
        ],
        "revoked": len(entry.revoked),
    }


def _row(entry: Application) -> list[str]:
    now = time.time()
    good = [issued for issued in entry.issued if not issued.is_over(now)]
    ends = ", ".join(_ends(issued) + (" (soon)" if issued.is_over(now + _SOON_S) else "") for issued in good)
    categories = "all" if entry.categories is None else ", ".join(sorted(entry.categories))
    return [
        entry.name,
        entry.role,
        categories if entry.produces else "-",
        str(len(good)),
        ends or "-",
        str(len(entry.revoked)),
    ]


def _ends(issued: Issued) -> str:
    return "never" if issued.expires is None else _time(issued.expires)


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _say(values: Mapping[str, Any], output: str) -> None:
    if output == "json":
        print_json(values)
        return
    width = max(map(len, values))
    for name, value in values.items():
        for line in value if isinstance(value, list) else [value]:
            text = " ".join(f"{key}={part}" for key, part in line.items()) if isinstance(line, dict) else str(line)
            click.echo(f"{name:{width}}  {text}")
