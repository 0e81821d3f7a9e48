# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.box.names``: keep the firewall's sets and the name table to what the site's names stand for.

Runs only where the site configuration names the hub, its proxy or its time servers without their addresses.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import click
import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.box.layout import BoxLayout
from appliance.box.local import accepted
from appliance.box.naming import NameBook
from appliance.box.options import layout_of, root_option, run_program
from appliance.keys.files import PUBLIC, replace_file
from appliance.node.documents import problem, write_status
from appliance.site.config import Address, SiteConfig
from appliance.site.egress import names_to_resolve, nft_script, nft_sets
from appliance.site.services import Resolved, hosts
from appliance.watchdog.nft import Nftables

NAME = "names"
LOOKUP_S = 15.0
SAY_EVERY_S = 4.0

_log = logging.getLogger("appliance.box.names")


@click.command(help="Look up what the names of the site configuration stand for, and let packets go there.")
@root_option()
def command(root: Path) -> None:
    """Run until told to end."""
    run_program(lambda: trio.run(_run, layout_of(root)))


async def _run(layout: BoxLayout) -> None:
    site = accepted(layout)
    nftables = Nftables()

    def fill(resolved: Resolved) -> None:
        nftables.run(nft_script(nft_sets(site, resolved)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_on_signal, nursery.cancel_scope)
        await Naming(layout, site, fill).run()


class Naming:
    """The loop. :param fill: fills the firewall's sets; blocking."""

    def __init__(self, layout: BoxLayout, site: SiteConfig, fill: Callable[[Resolved], None]) -> None:
        self._layout, self._site, self._fill = layout, site, fill
        self._book = NameBook(names_to_resolve(site))
        self._filled: Resolved | None = None
        self._problem: BsfgError | None = None

    async def run(self) -> None:
        """Run until cancelled; ends at once where there is no name to look up."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_saying)
            while self._book.names:
                for name in self._book.names:
                    await self._look_up(name)
                await trio.to_thread.run_sync(self._apply)
                await trio.sleep(self._book.pause_s)
            nursery.cancel_scope.cancel()

    async def _look_up(self, name: str) -> None:
        try:
            with trio.fail_after(LOOKUP_S):
                answers = await trio.socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        except (OSError, trio.TooSlowError) as error:
            self._book.failed(name, str(error) or f"no answer within {LOOKUP_S:g} s")
            return
        found: list[Address] = [ip_address(answer[4][0]) for answer in answers]
        self._book.found(name, found, trio.current_time())

    def _apply(self) -> None:
        """Only what changed: a set that is filled anew forgets nothing, but costs a transaction."""
        resolved = self._book.resolved()
        if resolved == self._filled:
            return
        try:
            replace_file(self._layout.hosts_file, hosts(self._site, resolved).encode(), PUBLIC)
            self._fill(resolved)
        except BsfgError as error:
            self._problem = error
            _log.error("%s", error)
            return
        self._problem, self._filled = None, resolved
        for name, addresses in resolved.items():
            _log.info("%s is %s", name, ", ".join(map(str, addresses)))

    async def _keep_saying(self) -> None:
        while True:
            await trio.to_thread.run_sync(self._report)
            await trio.sleep(SAY_EVERY_S)

    def _report(self) -> None:
        problems = [problem(Reason.LINK_DOWN, f"{name}: {why}", "names") for name, why in self._book.problems.items()]
        if self._problem is not None:
            problems.append(problem(self._problem.reason, self._problem.detail, "firewall"))
        known: dict[str, Any] = {name: [str(at) for at in found] for name, found in self._book.resolved().items()}
        state = "known" if len(known) == len(self._book.names) else "looking"
        write_status(self._layout.status, NAME, {"state": state, "names": known, "problems": problems})


async def _end_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            scope.cancel()
            return


if __name__ == "__main__":
    command.main(prog_name="bsfg-names")
