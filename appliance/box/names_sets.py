# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.names_sets``: fill the firewall's sets with what the site's names were found to stand for.

Run whenever ``bsfg-names`` has written it down anew; then it ends. It may set the firewall and reaches no network; what
it reads comes from a program that does, so it is parsed strictly (:mod:`appliance.box.found`). What is refused changes
nothing: the sets keep what they have.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box.found import MAX_BYTES, parsed
from appliance.box.layout import BoxLayout
from appliance.box.local import accepted
from appliance.box.options import layout_of, root_option, run_program
from appliance.keys.files import PRIVATE, read_regular, replace_file
from appliance.node.documents import problem_of, write_status
from appliance.site.egress import names_to_resolve, nft_script, nft_sets
from appliance.watchdog.nft import Nftables

NAME = "names-sets"
ROUNDS: Final = 3
"""How often it looks whether the document was replaced meanwhile; whoever replaces it for ever is not followed."""

_log = logging.getLogger("appliance.box.names_sets")


@click.command(help="Let packets go to what the names of the site configuration were found to stand for.")
@root_option()
def command(root: Path) -> None:
    """Run once."""
    run_program(lambda: run(layout_of(root), lambda script: Nftables().run(script)))


def run(layout: BoxLayout, fill: Callable[[str], object]) -> None:
    """Fill the sets and say so. :param fill: loads a script into the firewall, as one transaction.

    :raises BsfgError: what hinders it; the status document says so too.
    """
    try:
        site, done, names = accepted(layout), None, 0
        for _ in range(ROUNDS):
            data = _read(layout.names_found)
            if data == done:
                break
            resolved = parsed(data, names_to_resolve(site))
            script = nft_script(nft_sets(site, resolved))
            _keep(layout.names_script, script)
            fill(script)
            done, names = data, len(resolved)
    except BsfgError as error:
        write_status(layout.status, NAME, {"state": "failed", "problems": [problem_of(error, "names")]})
        raise
    _log.info("the firewall's sets have the addresses of %d names", names)
    write_status(layout.status, NAME, {"state": "filled", "names": names, "problems": []})


def _keep(path: Path, script: str) -> None:
    """Write down what is put into the sets, before it is: whatever else is in them is foreign to the watchdog.

    :raises UnavailableError: ``bad_environment``.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, script.encode(), PRIVATE)
    except OSError as error:
        raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{path}: {error.strerror}") from error


def _read(path: Path) -> bytes:
    """The document, whatever the other put in its place.

    :raises UnavailableError: ``not_ready``: it is not there.
    :raises RefusedError: ``bad_document``: it is no such file.
    """
    try:
        return read_regular(path, MAX_BYTES)
    except FileNotFoundError as error:
        raise UnavailableError(Reason.NOT_READY, "no name was looked up yet") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RefusedError(Reason.BAD_DOCUMENT, f"{path.name}: {why}") from error


if __name__ == "__main__":
    command.main(prog_name="bsfg-names-sets")
