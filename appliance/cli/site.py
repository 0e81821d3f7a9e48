# SPDX-License-Identifier: Apache-2.0
"""``bsfg site``: write, check, sign and take the site configuration of a box. Needs no network and no TPM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError
from appliance.boundary.names import parse_zone
from appliance.boundary.reasons import Reason
from appliance.cli.files import FILE, FOLDER, read, write
from appliance.cli.output import output_option, print_json, print_table
from appliance.cli.passphrase import passphrase, passphrase_option

if TYPE_CHECKING:
    from appliance.site.config import SiteConfig
    from appliance.site.document import SignedSite

F = TypeVar("F", bound=Callable[..., Any])

STATE: Final = Path("/var/lib/bsfg/site")
ROLES: Final = ("producer", "consumer", "service")


def state_option() -> Callable[[F], F]:
    """The option ``--state``."""
    return click.option(
        "--state", type=FOLDER, default=STATE, show_default=True, help="Folder of the box's site configuration."
    )


@click.group()
def site() -> None:
    """Write, check, sign and take the site configuration of a box."""


@site.command()
@click.option("--zone", help="The zone that the box is.")
@click.option("--hub", help="The zone of the hub.")
@click.option("--host", help="Where the hub is: a DNS name, or an address.")
@click.option("--mac", help="The port towards the hub, by its hardware address.")
@click.option("--dns", multiple=True, help="A resolver's address; may be given three times.")
@click.option("--hub-ca", type=FILE, help="The hub's CA certificate, PEM.")
@click.option("--operator", "operators", multiple=True, type=FILE, help="A release operator's public key; 2 or 3.")
@click.option("--site-ca", type=FILE, help="For --from: a CA certificate of the site, PEM.")
@click.option("--from", "example", type=FILE, help="Fill the markers of this document instead of writing a new one.")
@click.option("--out", required=True, type=FILE, help="The file to write; it must not exist.")
def new(out: Path, operators: tuple[Path, ...], **options: Any) -> None:
    """Write a document to start with, full of comments; or fill the keys into an example."""
    from appliance.site.template import Answers, fill, new_site

    pems = {f"OPERATOR_{index}": _text(path) for index, path in enumerate(operators, 1)}
    pems |= {name: _text(options[name.lower()]) for name in ("HUB_CA", "SITE_CA") if options[name.lower()] is not None}
    if options["example"] is not None:
        text = _text(options["example"])
    else:
        if missing := [f"--{name}" for name in ("zone", "hub", "host") if not options[name]]:
            raise click.UsageError(f"{missing[0]} is missing; without it, --from names a document")
        zone, hub = parse_zone(options["zone"]), parse_zone(options["hub"])
        port = f'mac = "{_mac(options["mac"])}"' if options["mac"] else 'name = "enp1s0"                    # or mac'
        text = new_site(Answers(zone, hub, _host(options["host"]), port, options["dns"]))
    if pems:
        text = fill(text, pems)
    _write_new(out, text.encode())
    click.echo(f"wrote {out}\nnext: edit it, then bsfg site check {out}", err=True)


@site.command()
@click.argument("file", type=FILE)
@output_option("table", "json")
def check(file: Path, output: str) -> None:
    """Parse FILE, and say what it means and who signed it. Exit code 1 if it is not valid; unsigned is no error."""
    from appliance.site.document import unsigned
    from appliance.site.reading import read_site

    data = read(file)
    config = read_site(unsigned(data), str(file))
    _print(config, _signature(data, file), output)


@site.command()
@click.argument("file", type=FILE)
@click.option("--key", required=True, type=FILE, help="Your key, as 'bsfg operator keys new' makes it.")
@click.option("--out", required=True, type=FILE, help="The signed file; it is written anew.")
@passphrase_option()
@output_option("text", "json")
def sign(file: Path, key: Path, out: Path, passphrase_file: Path | None, output: str) -> None:
    """Sign FILE into the file of --out. A signature it has already is replaced; what is not valid is not signed."""
    from appliance.keys.operators import load_operator_key
    from appliance.site.document import open_site, sign_site, unsigned
    from appliance.site.reading import read_site
    from appliance.site.values import key_name

    data = read(file)
    read_site(unsigned(data), str(file))  # before the passphrase is asked for
    signed = sign_site(data, load_operator_key(key, passphrase(passphrase_file)), str(file))
    write(out, signed)
    opened = open_site(signed, str(out))
    facts = {"file": str(out), "zone": opened.config.zone, "version": opened.config.version}
    facts |= {"signer": key_name(opened.signer), "sha256": opened.digest}
    if output == "json":
        print_json(facts)
    else:
        click.echo("\n".join(f"{name:<8} {value}" for name, value in facts.items()))


@site.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do: produce, read, or both.")
@click.option("--category", "categories", multiple=True, help="A category it may produce; every one if not given.")
@click.option("--out", required=True, type=FOLDER, help="Folder for NAME.creds and NAME.token: its secrets.")
@output_option("text", "json")
def application(name: str, role: str, categories: tuple[str, ...], out: Path, output: str) -> None:
    """Make a local application NAME: its secrets into files, and the table for the document on standard output."""
    from time import time

    from appliance.site.applications import new_application

    made, secrets, table = new_application(name, role, categories, int(time()))
    try:
        files = [str(path) for path in secrets.write(out, made.name)]
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{error.filename or out}: {error.strerror}") from error
    if output == "json":
        print_json({"name": made.name, "role": made.role, "files": files, "table": table})
        return
    click.echo(table, nl=False)
    click.echo(f"wrote {', '.join(files)}: give them to the application, and to nobody else", err=True)
    click.echo("next: put the table into the document, raise its version, sign it, bring it to the box", err=True)


@site.command()
@state_option()
@output_option("table", "json")
def show(state: Path, output: str) -> None:
    """Show the configuration that is in force, its trial, and why the last one was not taken."""
    from appliance.site.store import SiteStore

    store = SiteStore(state)
    accepted, refusal = store.load(), store.refusal()
    left = store.left_s()
    if accepted is None:
        detail = f"{state} has no site configuration" + (f"; refused: {refusal['text']}" if refusal else "")
        raise RefusedError(Reason.BAD_INPUT, detail)
    more = {"on trial, seconds left": "-" if left is None else f"{left:.0f}"}
    if refusal is not None:
        more["refused"] = f"{refusal['reason']}: {refusal['text']}"
    _print(accepted.config, _signed(accepted) | more, output)


@site.command(name="import")
@click.argument("file", type=FILE)
@state_option()
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@output_option("table", "json")
def take(file: Path, state: Path, dry_run: bool, output: str) -> None:
    """Take FILE as the site configuration, by the rule; it is applied at the next boot."""
    from appliance.site.describe import changes
    from appliance.site.store import Outcome, SiteStore

    offer = SiteStore(state).offer(read(file), str(file), dry_run=dry_run)
    if offer.outcome is Outcome.OLDER:
        raise DeniedError(Reason.SITE_ROLLBACK, f"{file}: version {offer.site.config.version} was in force before")
    rows = changes(None if offer.before is None else offer.before.config, offer.site.config)
    if output == "json":
        fields = [{"field": field, "old": old, "new": now} for field, old, now in rows]
        print_json({"outcome": offer.outcome, "dry_run": dry_run, "trial": offer.trial, "changes": fields})
        return
    print_table(["field", "is", "becomes"], rows)
    says = {
        Outcome.FIRST: "the box has none yet: this one is taken, and its signer is pinned",
        Outcome.CHANGED: "it replaces the one in force",
        Outcome.SAME: "it is in force already; nothing changes",
    }[offer.outcome]
    click.echo(f"\n{says}")
    if offer.trial:
        click.echo("on trial: without contact with the hub within 10 minutes the old one comes back")
    if dry_run:
        click.echo("dry run: nothing was written")


def _print(config: SiteConfig, more: dict[str, str], output: str) -> None:
    from appliance.site.describe import flat, meaning
    from appliance.site.egress import egress, ingress

    if output == "json":
        print_json(meaning(config) | {"state": more})
        return
    print_table(["field", "value"], [*flat(config).items(), *more.items()])
    click.echo("\nthe box may dial:")
    rows = [(each.purpose, each.protocol, each.host, str(each.port), ", ".join(each.users)) for each in egress(config)]
    _print_rows(["for", "by", "host", "port", "user"], rows)
    click.echo("\nit may be dialled on:")
    listens = [(each.purpose, each.device, str(each.address), str(each.port)) for each in ingress(config)]
    _print_rows(["for", "device", "address", "port"], listens)
    if config.applications and config.listener is None:
        click.echo("note: without a table [plant] its applications can reach the box from nowhere")


def _print_rows(head: list[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        print_table(head, rows, right=frozenset(("port",)))
    else:
        click.echo("nothing")


def _signature(data: bytes, file: Path) -> dict[str, str]:
    from appliance.site.document import open_site

    try:
        return _signed(open_site(data, str(file)))
    except BsfgError as error:
        return {"signature": f"{error.reason}: {error.detail}"}


def _signed(opened: SignedSite) -> dict[str, str]:
    from appliance.site.values import key_name

    return {"signature": f"good, by key {key_name(opened.signer)}", "sha256": opened.digest}


def _text(file: Path) -> str:
    try:
        return read(file).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{file}: not UTF-8") from error


def _host(text: str) -> str:
    from appliance.site.values import host

    try:
        return host(text)
    except ValueError as error:
        raise RefusedError(Reason.BAD_INPUT, f"--host {text!r}: {error}") from error


def _mac(text: str) -> str:
    from appliance.site.values import mac_port

    try:
        return mac_port(text).value
    except ValueError as error:
        raise RefusedError(Reason.BAD_INPUT, f"--mac {text!r}: {error}") from error


def _write_new(out: Path, data: bytes) -> None:
    try:
        with out.open("xb") as file:
            file.write(data)
    except OSError as error:
        raise RefusedError(Reason.BAD_INPUT, f"{out}: {error.strerror}") from error
