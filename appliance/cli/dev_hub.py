# SPDX-License-Identifier: Apache-2.0
"""``bsfg dev hub``: a hub alone on this machine, for boxes that are not (virtual machines, and boxes on a desk)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from appliance.boundary.names import parse_zone
from appliance.cli.files import FILE
from appliance.cli.output import dir_option

if TYPE_CHECKING:
    from appliance.dev.hub_alone import HubAlone

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.group()
def hub() -> None:
    """Run a hub without a plant, for boxes of their own. End it with 'bsfg dev down'."""


@hub.command()
@dir_option()
@click.option("--plant", "plants", multiple=True, default=("plant-a",), show_default=True, help="A zone it serves.")
@click.option("--image-key", type=_FILE, help="Public key (RSA, PEM) that signs the images of the boxes.")
@click.option("--vendor", type=_FILE, help="CA certificates (PEM) of whoever made the boxes' TPMs.")
def up(folder: Path, plants: tuple[str, ...], image_key: Path | None, vendor: Path | None) -> None:
    """Bring up zone enterprise with its enrolment office, and leave it running.

    Its own TPM is software, its operators' keys are files, and boxes dial its simulated link on 127.0.0.1, which a
    virtual machine of QEMU reaches at 10.0.2.2.
    """
    from appliance.dev.environment import PortName
    from appliance.dev.hub_alone import HubAlone

    alone = HubAlone.make(folder, [parse_zone(plant) for plant in plants])
    if image_key is not None:
        alone.trust_image_key(image_key.read_bytes())
    if vendor is not None:
        alone.trust_vendor(vendor.read_bytes(), "given")
    alone.start()
    ports = alone.environment.ports
    for name in (PortName.LINK_RPC, PortName.LINK_TRUST, PortName.LINK_LEAF):
        click.echo(f"{ports[name]}  {name}")
    click.echo(f"everything else stands in {alone.environment.layout.document}")


@hub.command()
@dir_option()
@click.argument("zone")
@click.option("--host", required=True, help="Where the box finds this hub: an address or a name.")
@click.option("--interfaces", type=_FILE, help="TOML file with tables [interfaces.…]; else one virtual port by DHCP.")
@click.option("--extra", type=_FILE, help="TOML file with further tables, such as [plant] and [time].")
@click.option("--site-version", type=int, default=1, show_default=True, help="Version of the site configuration.")
@click.option("--out", "out_file", type=FILE, required=True, help="The signed site configuration.")
def site(
    folder: Path,
    zone: str,
    host: str,
    interfaces: Path | None,
    extra: Path | None,
    site_version: int,
    out_file: Path,
) -> None:
    """Write a signed site configuration for the box of ZONE."""
    from appliance.dev.hub_alone import INTERFACES

    ports = INTERFACES if interfaces is None else interfaces.read_text("utf-8")
    more = "" if extra is None else extra.read_text("utf-8")
    document = _hub(folder).site(parse_zone(zone), host, interfaces=ports, version=site_version, extra=more)
    out_file.write_bytes(document)
    click.echo(f"{out_file}: {len(document)} bytes, signed by the hub's first operator")


@hub.command()
@dir_option()
@click.argument("zone")
@click.argument("fingerprint")
@click.option("--out", "out_file", type=FILE, required=True, help="The voucher.")
def voucher(folder: Path, zone: str, fingerprint: str, out_file: Path) -> None:
    """Write a voucher that lets the TPM with FINGERPRINT in for ZONE, once, for a day."""
    out_file.write_bytes(_hub(folder).voucher(parse_zone(zone), fingerprint))
    click.echo(f"{out_file} is good for a day")


def _hub(folder: Path) -> HubAlone:
    from appliance.dev.hub_alone import HubAlone

    return HubAlone.load(folder)
