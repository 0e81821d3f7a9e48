# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.local``: open the local keys and hand them to nats-facts and the agent; then it ends.

Applications that the site configuration names are let in, and those that it names no more are not. Run at boot, and
whenever an application was added, changed or revoked. It needs no network, no time and no keeper; it
needs the TPM, for the root of the local keys is sealed to it.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from pathlib import Path

import click

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box.layout import BoxLayout
from appliance.box.localkeys import Handing, opened_root
from appliance.box.options import ROOT, layout_of, root_option, run_program
from appliance.box.sealing import RootSeal, SystemdCreds
from appliance.keys.local.store import LocalKeys
from appliance.node.documents import problem, problem_of, write_status
from appliance.site.config import SiteConfig
from appliance.site.store import SiteStore

NAME = "local"
NOT_TAKEN = "give it another name or token in the site configuration, or revoke the other one on the box"

_log = logging.getLogger("appliance.box.local")


@click.command(help="Open the local keys of this box and hand them to its services.")
@root_option()
@click.option("--unsealed", is_flag=True, help="Development: the root lies in its folder in the clear.")
def command(root: Path, unsealed: bool) -> None:
    """Run once."""
    run_program(lambda: run(layout_of(root), None if unsealed and root != ROOT else box_seal(layout_of(root))))


def box_seal(layout: BoxLayout) -> RootSeal:
    """How this box seals its root."""
    return SystemdCreds(layout.image_key, layout.image_signatures)


def run(layout: BoxLayout, seal: RootSeal | None) -> None:
    """Hand out, and say so. :param seal: ``None``: development, the root is not sealed.

    :raises BsfgError: what hinders it; the status document says so too.
    """
    try:
        site = accepted(layout)
        keys = open_local(layout, site, seal)
        refused = keys.take_site(site.applications)
        changed = Handing(layout, site, own_groups=os.geteuid() == 0).hand_out(keys, datetime.now(UTC))
    except (BsfgError, OSError) as error:
        failed = error if isinstance(error, BsfgError) else UnavailableError(Reason.BAD_LOCAL_KEYS, str(error))
        write_status(layout.status, NAME, {"state": "failed", "problems": [problem_of(failed, "local keys")]})
        raise failed from error
    _log.info("local keys of %s: %s", site.zone, ", ".join(path.name for path in changed) or "nothing has changed")
    applications = sum(1 for entry in keys.applications().local() if entry.issued)
    problems = [problem(Reason.BAD_SITE, text, "applications", NOT_TAKEN) for text in refused]
    write_status(layout.status, NAME, {"state": "ready", "applications": applications, "problems": problems})


def accepted(layout: BoxLayout) -> SiteConfig:
    """The site configuration in force. :raises RefusedError: ``bad_input``: there is none."""
    signed = SiteStore(layout.site).load()
    if signed is None:
        raise RefusedError(Reason.BAD_INPUT, f"{layout.site_document} is not there: this box is not configured")
    return signed.config


def open_local(layout: BoxLayout, site: SiteConfig, seal: RootSeal | None) -> LocalKeys:
    """The local keys. :raises UnavailableError: ``bad_local_keys``."""
    if seal is None:
        return LocalKeys.open(layout.local, site.zone)
    with opened_root(layout, seal) as root_file:
        return LocalKeys.open(layout.local, site.zone, root_file=root_file)


if __name__ == "__main__":
    command.main(prog_name="bsfg-local")
