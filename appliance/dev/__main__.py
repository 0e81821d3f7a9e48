# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.dev --dir D --report-fd N``: the supervisor of an environment as a daemon.

Started by ``bsfg dev up --detach``. It reports its progress as JSON lines on the descriptor, closes that when all is
ready, and lives on with nothing of the terminal it came from. When nobody reads its reports any more, it ends.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import trio

from appliance.boundary.errors import BsfgError
from appliance.dev.layout import Layout
from appliance.dev.lock import holding_lock
from appliance.dev.running import run_environment
from appliance.dev.supervisor import ChildFailedError, Progress, Step


def main() -> None:
    """Run as a daemon; exit with the reason's code when it does not come up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--report-fd", type=int, required=True)
    arguments = parser.parse_args()
    if os.fork():
        os._exit(0)  # whoever started us need not collect the daemon
    os.setsid()
    os.chdir("/")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    layout = Layout.at(arguments.dir)
    with os.fdopen(arguments.report_fd, "w", encoding="utf-8") as channel:

        def tell(document: dict[str, str]) -> None:
            if channel.closed:
                return
            try:
                print(json.dumps(document), file=channel, flush=True)
            except BrokenPipeError:
                os.kill(os.getpid(), signal.SIGTERM)  # whoever started us gave up

        def report(progress: Progress) -> None:
            tell(asdict(progress))
            if progress.step is Step.ALL_READY:
                channel.close()

        try:
            with holding_lock(layout):
                trio.run(run_environment, layout, report)
        except BsfgError as error:
            logging.getLogger(__name__).error("%s", error)  # noqa: TRY400 - it is its own explanation
            log = str(error.log) if isinstance(error, ChildFailedError) else ""
            tell({"failed": error.reason, "detail": error.detail, "log": log})
            sys.exit(error.text.exit)


if __name__ == "__main__":
    main()
