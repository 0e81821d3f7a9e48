# SPDX-License-Identifier: Apache-2.0
"""``bsfg image``: release images of the appliance: which disks there are, whether an image is genuine, writing it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.files import FILE, FOLDER, write
from appliance.cli.output import Meter, output_option, print_json, print_table
from appliance.cli.passphrase import passphrase, passphrase_option

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from appliance.flash.disks import DiskFacts
    from appliance.flash.job import Job
    from appliance.flash.writing import Written

F = TypeVar("F", bound=Callable[..., Any])
_UNITS: Final = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_MB: Final = 1_000_000
_GB: Final = 1000 * _MB


class Size(click.ParamType[int]):
    """A number of bytes, with K, M, G or T for 1024 and its powers."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read it."""
        number, factor = (value[:-1], _UNITS[value[-1]]) if value[-1:] in _UNITS else (value, 1)
        if not number.isascii() or not number.isdecimal() or not 0 < int(number) * factor < 1 << 50:
            self.fail(f"{value!r} is no size such as 4G", param, ctx)
        return int(number) * factor


def key_option() -> Callable[[F], F]:
    """The option ``--key``."""
    return click.option(
        "--key",
        "keys",
        multiple=True,
        required=True,
        type=FILE,
        envvar="BSFG_RELEASE_KEY",
        help="Public release key, PEM; any one must have signed (or the variable BSFG_RELEASE_KEY).",
    )


@click.group()
def image() -> None:
    """Check a release image, and write it to a disk."""


@image.command()
@output_option("table", "json")
def disks(output: str) -> None:
    """List the disks of this machine, and why one would not be written to."""
    from appliance.flash.guards import refusals
    from appliance.flash.sysfs import SysfsDisks

    found = [(disk, refusals(disk)) for disk in SysfsDisks().all()]
    if output == "json":
        print_json({"disks": [{**_disk(disk), "refused": why} for disk, why in found]})
        return
    rows = [
        [str(d.node), d.model or "-", d.serial or "-", size_text(d.size), d.transport, "; ".join(why) or "-"]
        for d, why in found
    ]
    print_table(("disk", "model", "serial", "size", "transport", "refused because"), rows, right=frozenset({"size"}))


@image.command()
@click.argument("place", type=click.Path(exists=True, path_type=Path))
@key_option()
@output_option("text", "json")
def verify(place: Path, keys: tuple[Path, ...], output: str) -> None:
    """Prove that PLACE, a release folder or the image in it, is what was released: signature first, then checksums."""
    from appliance.flash.release import check_file, open_release

    release = open_release(place, _keys(keys))
    names = sorted(release.sums) if place.is_dir() else [release.image.name]
    shown = Progress()
    for name in names:
        check_file(release.folder / name, release.sums[name], shown.counter(name, release.folder / name))
    shown.end()
    facts = {
        "image": release.image.name,
        "version": release.manifest.version,
        "profile": release.manifest.profile,
        "released": release.manifest.released,
        "key": release.key,
        "files": names,
    }
    if output == "json":
        print_json(facts)
        return
    click.echo(f"{release.manifest.name}, released {release.manifest.released}")
    click.echo(f"signed by  {release.key} (SHA-256 of the key)")
    for name in names:
        click.echo(f"intact     {name}")


@image.command()
@click.argument("place", metavar="RELEASE", type=click.Path(exists=True, path_type=Path))
@click.option("--key", required=True, type=FILE, help="The private release key, as 'bsfg operator keys new' makes one.")
@click.option("--out", required=True, type=FILE, help="The file for the signature; it is written anew.")
@click.option("--yes", is_flag=True, help="Sign without asking.")
@passphrase_option()
@output_option("text", "json")
def sign(place: Path, key: Path, out: Path, yes: bool, passphrase_file: Path | None, output: str) -> None:
    """On the machine with the key: sign RELEASE, a folder that is looked through, or its SHA256SUMS alone."""
    from appliance.flash.signing import read_unsigned, sign_sums
    from appliance.keys.operators import load_operator_key

    shown = Progress()
    unsigned = read_unsigned(place, lambda path: shown.counter(path.name, path))
    shown.end()
    manifest = unsigned.manifest
    if output == "text" or not yes:
        for name in sorted(unsigned.sums):
            click.echo(f"file     {unsigned.sums[name]}  {name}", err=output != "text")
        what = manifest.name if manifest is not None else "the list alone; none of its files was looked at"
        click.echo(f"signs    {what}", err=output != "text")
        click.echo(f"SHA-256  {unsigned.digest}, of the list", err=output != "text")
    if not yes and not click.confirm("Is that what the build machine said?", err=True):
        raise RefusedError(Reason.NOT_CONFIRMED, "nothing was signed")
    data = sign_sums(unsigned, load_operator_key(key, passphrase(passphrase_file)))
    write(out, data)
    if output == "json":
        version = None if manifest is None else manifest.version
        print_json({"signature": str(out), "sha256": unsigned.digest, "files": dict(unsigned.sums), "version": version})
    else:
        click.echo(f"wrote    {out}")


@image.command()
@click.argument("place", metavar="RELEASE", type=FOLDER)
@click.argument("signature", type=FILE)
@click.option("--key", required=True, type=FILE, help="Public release key, PEM: whose signature it must be.")
@output_option("text", "json")
def attach(place: Path, signature: Path, key: Path, output: str) -> None:
    """Put SIGNATURE into the folder RELEASE, if it is one of this release, and every file is what was signed."""
    from appliance.flash.release import SIGNATURE, load_release_key
    from appliance.flash.signing import attach as put

    shown = Progress()
    release = put(place, signature, load_release_key(key), lambda path: shown.counter(path.name, path))
    shown.end()
    facts = {"file": str(place / SIGNATURE), "version": release.manifest.version, "key": release.key}
    if output == "json":
        print_json(facts)
        return
    click.echo("\n".join(f"{name:<8} {value}" for name, value in facts.items()))


@image.command()
@click.argument("place", metavar="IMAGE", type=click.Path(exists=True, path_type=Path))
@key_option()
@click.option("--disk", type=FILE, help="The disk to overwrite, such as /dev/sdb.")
@click.option("--file", type=FILE, help="Write into a new file instead, for a virtual machine.")
@click.option("--size", type=Size(), help="With --file: how large the disk is to be, such as 4G.")
@click.option("--site", type=FILE, help="Signed site configuration that the box starts with.")
@click.option("--voucher", type=FILE, help="Voucher that the box enrols with.")
@click.option("--yes-serial", "serial", help="The disk's serial number, if nobody is there to type it.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted flash: what is there already is not written.")
@click.option("--dry-run", is_flag=True, help="Check everything, say what would be done, and write nothing.")
@output_option("text", "json")
def flash(place: Path, keys: tuple[Path, ...], output: str, **options: Any) -> None:
    """Write IMAGE, a release folder or the image in it, to a disk. Everything on the disk is lost."""
    from appliance.flash.job import FileTarget, Job
    from appliance.flash.sysfs import SysfsDisks

    if (options["disk"] is None) == (options["file"] is None):
        raise click.UsageError("give either --disk or --file")
    if options["size"] is not None and options["file"] is None:
        raise click.UsageError("--size goes with --file")
    machine = SysfsDisks()
    file = FileTarget(options["file"], options["size"]) if options["file"] is not None else None
    job = Job.prepare(
        place,
        _keys(keys),
        machine,
        disk=options["disk"],
        file=file,
        site=options["site"],
        voucher=options["voucher"],
    )
    if output == "text":
        _introduce(job)
    shown = Progress()
    job.check(shown.show, whole=options["dry_run"])
    shown.end()
    written = None
    if not options["dry_run"]:

        def confirm(disk: DiskFacts) -> str:
            return options["serial"] if options["serial"] is not None else _ask(disk)

        written = job.write(machine, confirm, shown.show, resume=options["resume"])
        shown.end()
    _report(job, written, output)


def _introduce(job: Job) -> None:
    from appliance.flash.release import MEASUREMENTS

    manifest = job.release.manifest
    click.echo(f"image    {manifest.name}, released {manifest.released}")
    click.echo(f"signed   by key {job.release.key}")
    if job.disk is not None:
        disk = job.disk
        click.echo(f"disk     {disk.node}, {disk.model or 'unknown model'}, {disk.transport}")
        click.echo(f"serial   {disk.serial or 'none'}")
        click.echo(f"size     {size_text(disk.size)}")
    elif job.file is not None:
        click.echo(f"file     {job.file.path}, {size_text(job.file.size or job.release.blocks.image_size)}")
    for name in job.embedding.files:
        click.echo(f"with     {name}")
    if MEASUREMENTS in job.release.sums and MEASUREMENTS not in job.embedding.files:
        click.echo(f"without  {MEASUREMENTS}: that needs mtools; the box compares itself with its own signatures alone")


def _ask(disk: DiskFacts) -> str:
    what = "serial number" if disk.serial else "size in bytes"
    click.echo(f"Everything on {disk.node} ({disk.model or 'unknown model'}) will be lost.", err=True)
    try:
        typed: str = click.prompt(f"Type its {what} to go on", default="", show_default=False, err=True)
    except click.Abort as error:
        raise RefusedError(Reason.NOT_CONFIRMED, "nothing was typed; --yes-serial gives it without a person") from error
    return typed


def _report(job: Job, written: Written | None, output: str) -> None:
    facts: dict[str, Any] = {
        "image": job.release.image.name,
        "version": job.release.manifest.version,
        "profile": job.release.manifest.profile,
        "key": job.release.key,
        "disk": _disk(job.disk) if job.disk is not None else None,
        "file": str(job.file.path) if job.file is not None else None,
        "embedded": sorted(job.embedding.files),
        "mapped_bytes": job.release.blocks.mapped,
        "dry_run": written is None,
    }
    if written is not None:
        facts |= {
            "written_bytes": written.written,
            "kept_bytes": written.kept,
            "read_back": "direct" if written.direct else "cache dropped",
            "seconds": round(written.seconds, 1),
        }
    if output == "json":
        print_json(facts)
        return
    where = job.disk.node if job.disk is not None else facts["file"]
    if written is None:
        click.echo(f"nothing was written; {size_text(job.release.blocks.mapped)} would be, to {where}")
        return
    kept = f", {size_text(written.kept)} were there already" if written.kept else ""
    past = "past the cache" if written.direct else "after the cache was dropped"
    click.echo(f"written  {size_text(written.written)} in {written.seconds:.0f} s{kept}")
    click.echo(f"read     back and compared, {past}\ndone     {where} can be taken out")


def _keys(paths: tuple[Path, ...]) -> list[ec.EllipticCurvePublicKey]:
    from appliance.flash.release import load_release_key

    return [load_release_key(path) for path in paths]


def _disk(disk: DiskFacts) -> dict[str, Any]:
    return {
        "disk": str(disk.node),
        "model": disk.model,
        "serial": disk.serial,
        "size": disk.size,
        "transport": disk.transport,
        "removable": disk.removable,
    }


def size_text(size: int) -> str:
    """Bytes for people, as makers of disks count them."""
    return f"{size / _GB:.1f} GB" if size >= _GB else f"{size / _MB:.1f} MB"


class Progress:
    """What goes on, on standard error: bytes, rate, and the time that is left."""

    def __init__(self) -> None:
        self._meter = Meter()
        self._stage = ""

    def show(self, stage: str, done: int, total: int) -> None:
        """Some more of a stage is done."""
        if stage != self._stage:
            self.end()
            self._meter, self._stage = Meter(), stage
        self._meter.show(lambda: self._line(done, total))

    def counter(self, stage: str, path: Path) -> Callable[[int], None]:
        """What counts the bytes of a file."""
        done, total = 0, path.stat().st_size if path.is_file() else 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self.show(stage, done, total)

        return advance

    def end(self) -> None:
        """Leave nothing half shown."""
        self._meter.clear()

    def _line(self, done: int, total: int) -> str:
        rate = done / max(self._meter.elapsed, 0.001)
        left = (total - done) / rate if rate else 0
        return f"{self._stage}: {size_text(done)} of {size_text(total)}, {size_text(int(rate))}/s, {left:.0f} s left"
