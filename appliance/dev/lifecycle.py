# SPDX-License-Identifier: Apache-2.0
"""Environments from outside: start one detached, ask it, end it. Blocking; for the command line and for tests."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev.child import STOP_GRACE
from appliance.dev.control import DownRequest, Request, StatusRequest, SupervisorStatus, ask
from appliance.dev.environment import Environment
from appliance.dev.layout import Layout
from appliance.dev.lock import holding_lock, is_running
from appliance.dev.pids import wait_until_gone
from appliance.dev.processes import python_command, python_environment
from appliance.dev.provision import open_environment
from appliance.dev.running import SUPERVISOR, end_leftovers, purge, remembered
from appliance.dev.supervisor import ChildFailedError, Progress, Step

_DOWN_TIMEOUT: Final = 4 * STOP_GRACE
"""Seconds for a supervisor to end everything: two rounds of processes, each with its grace, and some."""


def start_detached(layout: Layout, report: Callable[[Progress], None]) -> Environment:
    """Start a supervisor that outlives this process, and return when everything is ready.

    :raises UnavailableError: ``already_running``, ``port_taken``, ``bad_environment``, ``child_failed``, ...
    """
    open_environment(layout)  # refuses a folder that is something else before anything is put into it
    with holding_lock(layout):  # sees that its folder can be written, too
        layout.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8") as channel:
        try:
            with layout.supervisor_log.open("ab") as log:
                subprocess.run(
                    [*python_command("appliance.dev"), "--dir", str(layout.root), "--report-fd", str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=python_environment(),
                    pass_fds=(writing,),
                    check=True,
                )
        finally:
            os.close(writing)
        for line in channel:
            document = json.loads(line)
            if "failed" in document:
                raise _failure(document)
            progress = Progress(Step(document["step"]), document["process"], document["text"])
            report(progress)
            if progress.step is Step.ALL_READY:
                return Environment.load(layout.root)
    raise ChildFailedError(SUPERVISOR, "ended before everything was ready", layout.supervisor_log)


def _failure(document: dict[str, Any]) -> BsfgError:
    error = UnavailableError(Reason(document["failed"]), document["detail"])
    if document["log"]:
        failed = ChildFailedError("", "", Path(document["log"]))
        failed.detail = error.detail
        return failed
    return error


def query(layout: Layout, request: Request) -> dict[str, Any]:
    """Ask the supervisor. :raises UnavailableError: ``not_running``, ``bad_environment``; BsfgError: its refusal."""
    Environment.load(layout.root)
    return ask(layout.socket, request)


def supervisor_status(layout: Layout) -> SupervisorStatus:
    """What runs. :raises UnavailableError: ``not_running``, ``bad_environment``."""
    return SupervisorStatus.parse(query(layout, StatusRequest()))


def bring_down(layout: Layout, *, remove: bool = False) -> bool:
    """End everything of an environment, however it was left; ``False`` when nothing ran.

    :param remove: remove the folder afterwards.
    :raises UnavailableError: ``bad_environment``: the folder is no environment; nothing was touched.
    """
    Environment.load(layout.root)
    ran = is_running(layout)
    if ran:
        _end_supervisor(layout)
    with holding_lock(layout):
        ran = bool(end_leftovers(layout)) or ran
    if remove:
        purge(layout)
    return ran


def _end_supervisor(layout: Layout) -> None:
    """Ask it to end; when it does not answer, end it by force: the kernel takes its processes with it."""
    identity = remembered(layout).get(SUPERVISOR)
    try:
        ask(layout.socket, DownRequest())
        patience = _DOWN_TIMEOUT
    except BsfgError:
        patience = 0.0
    deadline = time.monotonic() + patience
    while is_running(layout) and time.monotonic() < deadline:
        time.sleep(0.05)
    if identity is None:
        return
    if is_running(layout):
        identity.end(grace=STOP_GRACE)
    wait_until_gone(identity, STOP_GRACE)  # the lock is released a moment before the process has ended


def tail(path: Path, lines: int = 12) -> str:
    """The last lines of a log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 16 * 1024))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError as error:
        return f"({path}: {error.strerror})"
