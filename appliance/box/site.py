# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.site``: take a candidate of the site configuration or keep the old one, and apply it.

Run once at boot, before the network. A candidate that is refused changes nothing, and why is said; a box without any
configuration says what to do, and nothing of it fails.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box.applying import Applying
from appliance.box.layout import BoxLayout
from appliance.box.options import choices, choices_options, layout_of, root_option, run_program
from appliance.box.storage import Storage
from appliance.keys.files import PUBLIC, replace_file
from appliance.node.documents import problem, problem_of, write_status
from appliance.site.document import SignedSite
from appliance.site.ports import named_ports
from appliance.site.store import SiteStore

NAME = "site"

_log = logging.getLogger("appliance.box.site")


@click.command(help="Take the site configuration of this box and write what follows from it.")
@root_option()
@choices_options()
def command(root: Path, **given: Any) -> None:
    """Run once."""
    run_program(lambda: run(layout_of(root), Applying(layout_of(root), choices(root, **given))))


def run(layout: BoxLayout, applying: Applying) -> None:
    """Take, apply, and say what came of it. Nothing that a document says makes this fail.

    :raises UnavailableError: ``bad_environment``: the disk or memory is full, or not there.
    """
    store = SiteStore(layout.site)
    try:
        problems = _offer(store, layout.candidate)
        signed, damaged = _in_force(store)
        if signed is None:
            applying.apply_nothing()
            problems += damaged
            say(layout, store, {"state": "failed" if damaged else "missing"}, problems)
            return
        storage = applying.apply(signed.config)
        replace_file(layout.applied_site, signed.data, PUBLIC)
    except OSError as error:
        failed = UnavailableError(Reason.BAD_ENVIRONMENT, str(error))
        write_status(layout.status, NAME, {"state": "failed", "problems": [problem_of(failed, NAME)]})
        raise failed from error
    problems += _small(storage)
    say(layout, store, described(signed), problems)
    _log.info("site configuration version %d of %s is in force", signed.config.version, signed.config.zone)


def _offer(store: SiteStore, candidate: Path) -> list[dict[str, str]]:
    """Offer what the boot partition has. A refusal is kept by the store; an ESP that cannot be read is a problem."""
    try:
        data = candidate.read_bytes()
    except FileNotFoundError:
        return []
    except OSError as error:
        return [problem(Reason.BAD_ENVIRONMENT, f"{candidate}: {error.strerror}", "boot partition")]
    try:
        offer = store.offer(data, str(candidate))
        _log.info("%s: %s", candidate, offer.outcome)
    except BsfgError as error:
        _log.warning("%s was not taken: %s", candidate, error)
    return []


def _in_force(store: SiteStore) -> tuple[SignedSite | None, list[dict[str, str]]]:
    """What is in force, after this boot was counted for what is on trial; and why it cannot be read."""
    try:
        store.tick(contact=False)
        return store.load(), []
    except BsfgError as error:
        _log.error("%s", error)
        return None, [problem_of(error, NAME)]


def described(signed: SignedSite) -> dict[str, Any]:
    """What a status document says of a configuration in force."""
    config = signed.config
    hub = config.hub if config.endpoints is None else f"{config.hub} at {config.endpoints.host}"
    return {
        "state": "accepted",
        "zone": config.zone,
        "site": config.name,
        "version": config.version,
        "digest": signed.digest,
        "hub": hub,
        "air_gapped": config.air_gapped,
        "show_addresses": config.console.show_addresses,
        "ports": named_ports(config),
    }


def say(layout: BoxLayout, store: SiteStore, values: dict[str, Any], problems: list[dict[str, str]]) -> None:
    """Write the status document."""
    left_s = None
    with suppress(BsfgError):  # that nothing can be read has been said
        left_s = store.left_s()
    document = {**values, "refused": _refused(store), "problems": problems}
    if left_s is not None:
        document["trial_ends_unix_ms"] = int((time.time() + left_s) * 1000)
    write_status(layout.status, NAME, document)


def say_again(layout: BoxLayout) -> None:
    """The status document anew, after something changed. Problems that were found at boot stay in it."""
    store = SiteStore(layout.site)
    try:
        signed = store.load()
        values = {"state": "missing"} if signed is None else described(signed)
    except BsfgError:
        values = {"state": "failed"}
    try:
        problems = json.loads(layout.status_document(NAME).read_bytes())["problems"]
    except (OSError, ValueError, KeyError, TypeError):
        problems = []
    say(layout, store, values, problems)


def _refused(store: SiteStore) -> dict[str, Any] | None:
    """Why the last candidate was not taken, with the line in one text."""
    found = store.refusal()
    if found is None:
        return None
    line = f", line {found['line']}" if found.get("line") else ""
    file = Path(str(found.get("file", ""))).name
    return {**found, "detail": f"{file}{line}: {found.get('text', '')}", "source": str(found.get("file", ""))}


def _small(storage: Storage) -> list[dict[str, str]]:
    """That the disk is smaller than what the site wants to keep."""
    if storage.part >= 1.0:
        return []
    text = f"the disk has room for {storage.part:.0%} of what the site gives its categories; each gets that part"
    return [problem(Reason.DISK_SMALL, text, "storage")]


if __name__ == "__main__":
    command.main(prog_name="bsfg-site")
