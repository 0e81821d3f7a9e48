# SPDX-License-Identifier: Apache-2.0
"""``bsfg hub``: which boxes are which zones. Works on the hub's files, whether the hub runs or not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import parse_zone
from appliance.boundary.reasons import Reason
from appliance.cli.files import FILE, FOLDER, read, write
from appliance.cli.output import output_option, print_json, print_table
from appliance.cli.passphrase import passphrase, passphrase_option

if TYPE_CHECKING:
    from appliance.hub.enrolment.office import EnrolmentOffice

F = TypeVar("F", bound=Callable[..., Any])
AUTHORITIES: Final = ("file", "tpm", "external", "external-leaf")


def office_option() -> Callable[[F], F]:
    """The option ``--office``."""
    return click.option(
        "--office",
        "office_folder",
        required=True,
        envvar="BSFG_OFFICE",
        type=FOLDER,
        help="Folder of the hub's enrolment office (or the variable BSFG_OFFICE).",
    )


def reason_option() -> Callable[[F], F]:
    """The option ``--reason``."""
    return click.option("--reason", default="", help="Your words; they are kept.")


@click.group()
def hub() -> None:
    """Decide which boxes are which zones: approve, deny, revoke, replace."""


@hub.command()
@office_option()
@click.option("--zone", required=True, help="The hub's own zone.")
@click.option("--pki", required=True, type=FOLDER, help="The hub's folder of certificates; it is made and kept here.")
@click.option(
    "--authority", type=click.Choice(AUTHORITIES), default=AUTHORITIES[0], show_default=True, help="Who signs."
)
@click.option("--vendor", "vendors", multiple=True, type=FILE, help="CA certificates of a TPM vendor, PEM.")
@click.option("--release-operator", "release_operators", multiple=True, type=FILE, help="A public key, PEM.")
@click.option("--enrolment-operator", "enrolment_operators", multiple=True, type=FILE, help="A public key, PEM.")
@click.option("--image-key", "image_keys", multiple=True, type=FILE, help="An image builder's public key, PEM.")
@click.option("--hub-ca", type=FILE, help="For external: the certificate of the site's CA that signs CA certificates.")
@click.option("--site-root", "site_roots", multiple=True, type=FILE, help="For external-leaf: roots of the site's PKI.")
@click.option("--encrypt", is_flag=True, help="Encrypt the hub CA's key with a passphrase.")
@passphrase_option()
@click.option("--keeper", "socket", type=FILE, help="The hub's keeper: its zone is enrolled; for tpm it signs.")
@output_option("table", "json")
def init(office_folder: Path, zone: str, socket: Path | None, output: str, **options: Any) -> None:
    """Make a hub's enrolment office; what is there stays, so it may be called again to add keys and vendors."""
    from appliance.hub.enrolment.setup import init_office

    plan = _plan(zone, {**options, "keeper": socket})
    folder = init_office(office_folder, plan, datetime.now(UTC))
    office = _signing_office(office_folder, options["passphrase_file"])
    office.settle()
    state = "not enrolled"
    if socket is not None:
        import trio

        from appliance.cli.enrol_keeper import enrol_with_office

        state = trio.run(enrol_with_office, office, socket)
    values = {
        "office": str(folder.path),
        "zone": plan.zone,
        "authority": office.config.authority.value,
        "own zone": state,
    }
    if output == "json":
        print_json(values)
        return
    print_table(("part", "value"), [[name, str(value)] for name, value in values.items()])


@hub.command()
@office_option()
@output_option("table", "json")
def pending(office_folder: Path, output: str) -> None:
    """List the boxes that wait for you, or for the site's PKI, and approvals that no box has used yet."""
    office = _office(office_folder)
    rows = [
        {
            "fingerprint": each.fingerprint,
            "zone": each.zone,
            "waits_for": each.waits.value,
            "since_unix_ms": each.asked_unix_ms,
            "vendor": each.record.vendor,
        }
        for each in office.pending()
    ]
    rows += [
        {"fingerprint": fingerprint, "zone": zone, "waits_for": "box", "since_unix_ms": 0, "vendor": ""}
        for fingerprint, zone in office.approvals()
    ]
    if output == "json":
        print_json(rows)
        return
    print_table(
        ("fingerprint", "zone", "waits for", "TPM vendor"),
        [[str(row[name]) for name in ("fingerprint", "zone", "waits_for", "vendor")] for row in rows],
    )


@hub.group()
def boxes() -> None:
    """The boxes that this hub has decided about."""


@boxes.command("list")
@office_option()
@output_option("table", "json")
def list_boxes(office_folder: Path, output: str) -> None:
    """List all boxes, in every state; when each was last heard, and what is known of its last quarantine."""
    from appliance.cli.hub_fleet import fleet_rows, fleet_values

    office = _office(office_folder)
    found = fleet_values(office, office.boxes())
    if output == "json":
        print_json(found)
        return
    heads = ("zone", "state", "fingerprint", "since (UTC)", "last heard", "attestation", "quarantine", "reason")
    print_table(heads, fleet_rows(found))


@boxes.command()
@click.argument("zone")
@office_option()
@click.option("--out", "out_file", required=True, type=FILE, help="The box file to write.")
@output_option("text", "json")
def export(zone: str, office_folder: Path, out_file: Path, output: str) -> None:
    """Write ZONE's box file, which operators keep beside their keys from enrolment on; see 'bsfg release'."""
    box = _office(office_folder).of_zone(parse_zone(zone))
    if box is None or box.record is None:
        raise RefusedError(Reason.UNKNOWN_BOX, f"zone {zone} has no box")
    made = box.record.for_release()
    write(out_file, made.render())
    if output == "json":
        print_json({"zone": zone, "file": str(out_file), "fingerprint": made.fingerprint})
        return
    click.echo(f"file         {out_file}\nfingerprint  {made.fingerprint}")


@hub.group()
def evidence() -> None:
    """Evidence of quarantines, brought from boxes."""


@evidence.command("import")
@click.argument("file", type=FILE)
@office_option()
@click.option("--seal", "seal_file", type=FILE, help="The seal; without it, the .seal.json beside FILE.")
@output_option("text", "json")
def import_evidence(file: Path, office_folder: Path, seal_file: Path | None, output: str) -> None:
    """Take in the evidence of a quarantined box: check it, keep it, and let the box in no more until it is released.

    FILE is what 'bsfg evidence export' wrote at the box. Whose it is, it says itself; its seal proves it.
    """
    from appliance.cli.evidence import seal_beside
    from appliance.cli.hub_fleet import take_evidence

    values = take_evidence(_office(office_folder), read(file), read(seal_file or seal_beside(file)))
    if output == "json":
        print_json(values)
        return
    for finding in values.pop("differs"):
        click.echo(f"differs: {finding}", err=True)
    _say(values, output)


@hub.command()
@click.argument("fingerprint")
@office_option()
@click.option("--zone", help="The zone; needed for a box that has not asked yet.")
@passphrase_option()
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@output_option("text", "json")
def approve(
    fingerprint: str, office_folder: Path, zone: str | None, passphrase_file: Path | None, dry_run: bool, output: str
) -> None:
    """Let the TPM with this FINGERPRINT in: now if it waits, else once when it asks.

    FINGERPRINT is what 'bsfg enrol fingerprint' shows at the box; compare it there. Of a box that waits, 8 digits do.
    """
    office = _signing_office(office_folder, passphrase_file)
    wanted = parse_zone(zone) if zone is not None else None
    box = office.approve(fingerprint, wanted, dry_run=dry_run)
    state = "would be approved" if dry_run else box.state.value if box is not None else "approved, not enrolled yet"
    _say({"fingerprint": fingerprint, "zone": box.zone if box is not None else zone, "state": state}, output)


@hub.command()
@click.argument("fingerprint")
@office_option()
@reason_option()
@output_option("text", "json")
def deny(fingerprint: str, office_folder: Path, reason: str, output: str) -> None:
    """Refuse the TPM with this FINGERPRINT, which waits or was approved."""
    _office(office_folder).deny(fingerprint, reason)
    _say({"fingerprint": fingerprint, "state": "denied"}, output)


@hub.command()
@click.argument("zone")
@office_option()
@reason_option()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@output_option("text", "json")
def revoke(zone: str, office_folder: Path, reason: str, yes: bool, dry_run: bool, output: str) -> None:
    """End ZONE's box: from now on nobody believes its connections. What it signed before stays signed."""
    office, parsed = _office(office_folder), parse_zone(zone)
    box = office.of_zone(parsed)
    if not dry_run and box is not None:
        _confirm(f"Revoke zone {zone}, TPM {box.fingerprint[:16]}…?", yes=yes)
    ended = office.revoke(parsed, reason, dry_run=dry_run)
    _say({"zone": zone, "fingerprint": ended.fingerprint, "state": _would("revoked", dry_run)}, output)


@hub.command()
@click.argument("zone")
@office_option()
@click.option("--fingerprint", default="", help="The TPM of the new box.")
@click.option("--voucher", "voucher_file", type=FILE, help="A voucher that names the TPM of the new box.")
@reason_option()
@passphrase_option()
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@click.option("--dry-run", is_flag=True, help="Say what would happen; change nothing.")
@output_option("text", "json")
def replace(
    zone: str,
    office_folder: Path,
    fingerprint: str,
    voucher_file: Path | None,
    reason: str,
    passphrase_file: Path | None,
    yes: bool,
    dry_run: bool,
    output: str,
) -> None:
    """End ZONE's box, and let one other TPM take its place, named by fingerprint or voucher."""
    if bool(fingerprint) == (voucher_file is not None):
        raise RefusedError(Reason.BAD_INPUT, "give one of --fingerprint and --voucher")
    office, parsed = _signing_office(office_folder, passphrase_file), parse_zone(zone)
    voucher = read(voucher_file) if voucher_file is not None else b""
    box = office.of_zone(parsed)
    if not dry_run and box is not None:
        _confirm(f"End zone {zone}'s box, TPM {box.fingerprint[:16]}…, for another?", yes=yes)
    ended = office.replace(parsed, fingerprint=fingerprint, voucher=voucher, note=reason, dry_run=dry_run)
    _say({"zone": zone, "fingerprint": ended.fingerprint, "state": _would("replaced", dry_run)}, output)


@hub.command()
@click.argument("file", type=FILE)
@office_option()
@output_option("text", "json")
def voucher(file: Path, office_folder: Path, output: str) -> None:
    """Say what the voucher in FILE is, and whether this hub would take it now."""
    shown, problem = _office(office_folder).look_at_voucher(read(file))
    values = {
        "zone": shown.zone,
        "fingerprint": shown.fingerprint,
        "expires": _day(shown.expires_unix_ms),
        "serial": shown.serial,
        "good": "yes" if problem is None else str(problem),
    }
    _say(values, output)


@hub.command()
@click.argument("file", type=FILE)
@office_option()
@click.option("--out", "out_file", required=True, type=FILE, help="The answer to carry back to the box.")
@passphrase_option()
@output_option("text", "json")
def answer(file: Path, office_folder: Path, out_file: Path, passphrase_file: Path | None, output: str) -> None:
    """Answer a box's document that came as FILE on a stick: a request with a challenge, a proof with a decision."""
    from appliance.keys.enrolment.documents import Refusal, parse_answer
    from appliance.keys.enrolment.hubside import FILE_VALIDITY_MS

    document = _signing_office(office_folder, passphrase_file).answer(read(file), FILE_VALIDITY_MS)
    write(out_file, document)
    found = parse_answer(document)
    _say({"answer": type(found).__name__.lower(), "file": str(out_file)}, output)
    if isinstance(found, Refusal):
        raise found.error()


@hub.command()
@click.argument("files", metavar="[FILE]...", nargs=-1, type=FILE)
@office_option()
@passphrase_option()
@output_option("table", "json")
def certify(files: tuple[Path, ...], office_folder: Path, passphrase_file: Path | None, output: str) -> None:
    """Have the keys certified of boxes that wait for it; with FILEs, take in certificates of the site's PKI first."""
    office = _signing_office(office_folder, passphrase_file)
    for file in files:
        office.take_certificate(read(file))
    before = {each.fingerprint for each in office.pending()}
    office.settle()
    left = {each.fingerprint: each for each in office.pending()}
    rows = [{"fingerprint": each, "state": left[each].waits.value if each in left else "enrolled"} for each in before]
    if output == "json":
        print_json(rows)
        return
    print_table(("fingerprint", "state"), [[row["fingerprint"], row["state"]] for row in rows])


def _office(folder: Path) -> EnrolmentOffice:
    from appliance.hub.enrolment.office import EnrolmentOffice

    return EnrolmentOffice(folder)


def _signing_office(folder: Path, passphrase_file: Path | None) -> EnrolmentOffice:
    """An office whose CA's key can be opened. Asked for the passphrase now, not while the hub waits."""
    from appliance.hub.enrolment.folder import EnrolmentFolder, asks_for_passphrase
    from appliance.hub.enrolment.office import EnrolmentOffice

    word = passphrase(passphrase_file) if asks_for_passphrase(EnrolmentFolder(folder)) else None
    return EnrolmentOffice(folder, ask=lambda: word)


def _plan(zone: str, options: dict[str, Any]) -> Any:
    from appliance.hub.enrolment.folder import AuthorityKind
    from appliance.hub.enrolment.setup import OfficePlan

    word = passphrase(options["passphrase_file"], twice=True) if options["encrypt"] else None
    names = ("vendors", "release_operators", "enrolment_operators", "image_keys", "site_roots", "hub_ca", "keeper")
    return OfficePlan(
        parse_zone(zone),
        options["pki"],
        AuthorityKind(options["authority"]),
        word,
        **{name: options[name] for name in names},
    )


def _confirm(question: str, *, yes: bool) -> None:
    """:raises RefusedError: ``not_confirmed``: the answer is no, or there is nobody to ask."""
    try:
        agreed = yes or click.confirm(question, err=True)
    except click.Abort:
        agreed = False
    if not agreed:
        raise RefusedError(Reason.NOT_CONFIRMED, "nothing was changed")


def _would(state: str, dry_run: bool) -> str:
    return f"would be {state}" if dry_run else state


def _say(values: dict[str, Any], output: str) -> None:
    if output == "json":
        print_json(values)
        return
    width = max(map(len, values))
    for name, value in values.items():
        click.echo(f"{name.ljust(width)}  {value}")


def _day(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(" ", "minutes")[:16]
