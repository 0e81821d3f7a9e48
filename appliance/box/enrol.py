# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.enrol``: ask the hub to let this box in until it has; then it ends.

A box that is enrolled already ends at once. It needs the way out, which the watchdog opens when the keeper's TPM has
answered; until then the hub is simply not reached.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import click
import trio

from appliance.box.configs import BoxChoices, BoxConfigs
from appliance.box.enrolling import Enrolling
from appliance.box.layout import BoxLayout
from appliance.box.local import accepted
from appliance.box.options import choices, choices_options, layout_of, root_option, run_program
from appliance.box.storage import Storage
from appliance.factlog.signals import end_on_signal
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.client import KeeperClient
from appliance.node.documents import write_status
from appliance.peer.dial import HttpProxy
from appliance.peer.trust_client import TrustClient, trust_client_context

NAME = "enrol"

_log = logging.getLogger("appliance.box.enrol")


@click.command(help="Enrol this box at its hub over the network; ends when it is enrolled.")
@root_option()
@choices_options()
def command(root: Path, **given: Any) -> None:
    """Run until enrolled, or told to end."""
    run_program(lambda: trio.run(_run, layout_of(root), choices(root, **given)))


async def _run(layout: BoxLayout, chosen: BoxChoices) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal, nursery.cancel_scope)
        await enrol(layout, chosen)
        nursery.cancel_scope.cancel()


async def enrol(layout: BoxLayout, chosen: BoxChoices) -> None:
    """Return when this box is enrolled, or is one that enrols by files.

    :raises BsfgError: there is no site configuration.
    """
    site = accepted(layout)
    if site.endpoints is None:
        _log.info("%s has no uplink: it is enrolled by files ('bsfg enrol request')", site.zone)
        return
    configs = BoxConfigs(site, layout, Storage(0, 0, 0, 1.0), chosen)
    pki = PkiFolder(layout.pki)
    hub = TrustClient(
        site.hub,
        configs.hub_host(site.endpoints),
        site.endpoints.trust,
        lambda: trust_client_context(pki.hub_ca),
        proxy=None if site.proxy is None else HttpProxy(site.proxy.host, site.proxy.port),
    )

    def say(values: dict[str, Any]) -> None:
        write_status(layout.status, NAME, values)

    keeper = KeeperClient(layout.keeper_socket)
    await Enrolling(keeper, hub.enrol, site.zone, pki, layout.voucher, say).run()


if __name__ == "__main__":
    command.main(prog_name="bsfg-enrol")
