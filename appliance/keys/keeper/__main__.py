# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.keys.keeper --config keeper.toml``: run the keeper until SIGTERM or SIGINT."""

from __future__ import annotations

import fcntl
import logging
import sys
from pathlib import Path

import click
import trio

from appliance.boundary.errors import BsfgError, UnavailableError, first_error
from appliance.boundary.reasons import Reason
from appliance.factlog.notify import ServiceManager
from appliance.factlog.signals import end_on_signal
from appliance.keys.keeper.clock import KeeperClock
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.keeper import Keeper
from appliance.keys.keeper.port import KeeperState
from appliance.keys.keeper.server import KeeperServer
from appliance.keys.keeper.successor import SuccessorKeeper, successor_config

_log = logging.getLogger("appliance.keys.keeper")


@click.command(help="Run the keeper in the foreground: the one process that opens the TPM.")
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="The configuration (TOML).")
def command(path: Path) -> None:
    """Run; errors end with reason, hint and exit code."""
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    failed: BsfgError | None = None
    try:
        trio.run(_run, path)
    except* BsfgError as group:
        failed = first_error(group)
    if failed is not None:  # not in the clause above: what is raised there comes out as a group, SystemExit too
        click.echo(f"error: {failed}\nhint: {failed.hint}", err=True)
        sys.exit(failed.text.exit)


async def _run(path: Path) -> None:
    config = KeeperConfig.load(path)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (config.state_dir / ".keeper.lock").open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnavailableError(Reason.TPM_BUSY, f"another keeper runs in {config.state_dir}") from None
        if config.tpm.kind == "swtpm":
            _log.warning("the keys of zone %s are in a SOFTWARE TPM, which protects nothing: development", config.zone)
        keeper, manager = Keeper(config, KeeperClock(config)), ServiceManager()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(end_on_signal, nursery.cancel_scope)
                await nursery.start(KeeperServer(config, keeper).run)
                successor = SuccessorKeeper(keeper, config.zone)
                await nursery.start(KeeperServer(successor_config(config), successor).run)
                await keeper.run(lambda state: manager.alive(ready=True, text=_text(config, state)))
        finally:
            manager.stopping()


def _text(config: KeeperConfig, state: KeeperState) -> str:
    return f"{state}; {config.tpm.kind}"


if __name__ == "__main__":
    command.main(prog_name="bsfg-keeper")
