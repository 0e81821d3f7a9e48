# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.names``: look up what the site's names stand for, and write it down.

Runs only where the site configuration names the hub, its proxy or its time servers without their addresses. It asks
name servers and has no privilege: the firewall's sets are filled by :mod:`appliance.box.names_sets`, which believes it
nothing but addresses.
"""

from __future__ import annotations

import logging
import socket
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import trio

from appliance.boundary.reasons import Reason
from appliance.box.found import rendered
from appliance.box.layout import BoxLayout
from appliance.box.local import accepted
from appliance.box.naming import NameBook
from appliance.box.options import layout_of, root_option, run_program
from appliance.factlog.signals import end_on_signal
from appliance.keys.files import PUBLIC, replace_file
from appliance.node.documents import problem, write_status
from appliance.site.config import Address, SiteConfig
from appliance.site.egress import names_to_resolve
from appliance.site.services import Resolved, hosts

NAME = "names"
LOOKUP_S = 15.0
SAY_EVERY_S = 4.0
WRITE_EVERY_S = 300.0
"""What was found is written down again, changed or not: the sets may have been emptied, or have missed it."""

_log = logging.getLogger("appliance.box.names")


@click.command(help="Look up what the names of the site configuration stand for.")
@root_option()
def command(root: Path) -> None:
    """Run until told to end."""
    run_program(lambda: trio.run(_run, layout_of(root)))


async def _run(layout: BoxLayout) -> None:
    site = accepted(layout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_on_signal, nursery.cancel_scope)
        await Naming(layout, site).run()


class Naming:
    """The loop."""

    def __init__(self, layout: BoxLayout, site: SiteConfig) -> None:
        self._layout, self._site = layout, site
        self._book = NameBook(names_to_resolve(site))
        self._written: Resolved | None = None
        self.written_at = -float("inf")
        self._problem = ""

    async def run(self) -> None:
        """Run until cancelled; ends at once where there is no name to look up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_saying)
            while self._book.names:
                for name in self._book.names:
                    await self.look_up(name)
                await trio.to_thread.run_sync(self.write)
                await trio.sleep(self._book.pause_s)
            nursery.cancel_scope.cancel()

    async def look_up(self, name: str) -> None:
        """Ask for one name, and remember the answer."""
        try:
            with trio.fail_after(LOOKUP_S):
                answers = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, trio.TooSlowError) as error:
            self._book.failed(name, str(error) or f"no answer within {LOOKUP_S:g} s")
            return
        found: list[Address] = [ip_address(answer[4][0]) for answer in answers]
        self._book.found(name, found, trio.current_time())

    def write(self) -> None:
        """What changed, and now and then what did not: each time somebody else fills the firewall's sets."""
        resolved, now = self._book.resolved(), time.monotonic()
        if resolved == self._written and now - self.written_at < WRITE_EVERY_S:
            return
        try:
            replace_file(self._layout.hosts_file, hosts(self._site, resolved).encode(), PUBLIC)
            replace_file(self._layout.names_found, rendered(resolved), PUBLIC)
        except OSError as error:
            self._problem = str(error)
            _log.error("%s", error)
            return
        for name, addresses in resolved.items() if resolved != self._written else ():
            _log.info("%s is %s", name, ", ".join(map(str, addresses)))
        self._problem, self._written, self.written_at = "", resolved, now

    async def _keep_saying(self) -> None:
        while True:
            await trio.to_thread.run_sync(self._report)
            await trio.sleep(SAY_EVERY_S)

    def _report(self) -> None:
        problems = [problem(Reason.LINK_DOWN, f"{name}: {why}", "names") for name, why in self._book.problems.items()]
        if self._problem:
            problems.append(problem(Reason.BAD_ENVIRONMENT, self._problem, "names"))
        known: dict[str, Any] = {name: [str(at) for at in found] for name, found in self._book.resolved().items()}
        state = "known" if len(known) == len(self._book.names) else "looking"
        write_status(self._layout.status, NAME, {"state": state, "names": known, "problems": problems})


if __name__ == "__main__":
    command.main(prog_name="bsfg-names")
