# SPDX-License-Identifier: Apache-2.0
"""Environments from outside: start one detached, ask it, end it. Blocking; for the command line and for tests."""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.dev.child import STOP_GRACE
from appliance.dev.control import DownRequest, Request, StatusRequest, SupervisorStatus, ask
from appliance.dev.environment import Environment
from appliance.dev.layout import KeysChoice, Layout
from appliance.dev.lock import holding_lock, is_running
from appliance.dev.pids import wait_until_gone
from appliance.dev.processes import python_command, python_environment
from appliance.dev.provision import open_environment, write_document
from appliance.dev.running import SUPERVISOR, end_leftovers, purge, remembered
from appliance.dev.supervisor import ChildFailedError, Progress, Step

STEP_S: Final = 180.0
"""Seconds in which a supervisor that starts must report something."""
_DOWN_TIMEOUT: Final = 4 * STOP_GRACE
"""Seconds for a supervisor to end everything: two rounds of processes, each with its grace, and some."""


def settle(layout: Layout, keys: KeysChoice | None = None, session_s: int | None = None) -> Environment:
    """Choose what an environment is, unless it is there, and write it down; nothing may run in it.

    :raises UnavailableError, RefusedError: as :func:`~appliance.dev.provision.open_environment`; ``already_running``.
    """
    open_environment(layout, keys)  # refuses a folder that is something else before anything is put into it
    with holding_lock(layout):  # sees that its folder can be written, too
        layout.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = open_environment(layout, keys, session_s)
        write_document(environment)
    return environment


def start_detached(
    layout: Layout,
    report: Callable[[Progress], None],
    keys: KeysChoice | None = None,
    session_s: int | None = None,
) -> Environment:
    """Start a supervisor that outlives this process, and return when everything is ready.

    :raises UnavailableError: ``already_running``, ``port_taken``, ``bad_environment``, ``child_failed``, ...
    :raises RefusedError: ``bad_input``: the environment is there, with other keys.
    """
    settle(layout, keys, session_s)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as channel:
        try:
            with layout.supervisor_log.open("ab") as log:
                subprocess.run(
                    [*python_command("appliance.dev"), "--dir", str(layout.root), "--report-fd", str(writing)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=python_environment(),
                    pass_fds=(writing,),
                    timeout=STEP_S,
                    check=True,
                )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(Reason.NOT_READY, f"the supervisor did not start within {STEP_S:g} s") from error
        finally:
            os.close(writing)
        for line in _lines(channel):
            document = json.loads(line)
            if "failed" in document:
                raise _failure(document)
            progress = Progress(Step(document["step"]), document["process"], document["text"])
            report(progress)
            if progress.step is Step.ALL_READY:
                return Environment.load(layout.root)
    raise ChildFailedError(SUPERVISOR, "ended before everything was ready", layout.supervisor_log)


def _lines(channel: FileIO) -> Iterator[bytes]:
    """What a supervisor reports, line by line. :raises UnavailableError: ``not_ready``: it says nothing any more."""
    waiting = b""
    while True:
        line, end, rest = waiting.partition(b"\n")
        if end:
            waiting = rest
            yield line
        elif not select.select([channel], [], [], STEP_S)[0]:
            raise UnavailableError(Reason.NOT_READY, f"the supervisor has said nothing for {STEP_S:g} s")
        elif not (more := channel.read(4096)):
            return
        else:
            waiting += more


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
