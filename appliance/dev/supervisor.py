# SPDX-License-Identifier: Apache-2.0
"""The supervisor: keeps the processes of an environment running as systemd would, and takes orders on a socket.

Theory of operation: every process has a task that starts it, waits for its end and starts it again. Until all have been
ready once, a process that ends three times before it is ready ends the whole start. Processes are ended in the reverse
order of their dependencies. Whatever kills the supervisor itself, the kernel kills the processes with it.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError, first_error
from appliance.boundary.reasons import Reason
from appliance.dev.child import Child, ChildSpec, ChildState
from appliance.dev.control import (
    MAX_LINE,
    CutRequest,
    DownRequest,
    HealRequest,
    KillRequest,
    LinkStatus,
    PowerCutRequest,
    ProcessStatus,
    Request,
    StatusRequest,
    SupervisorStatus,
    encode_answer,
    encode_error,
    parse_request,
    socket_address,
)
from appliance.dev.link import SimulatedLink
from appliance.dev.pids import ProcessIdentity
from appliance.dev.restarts import RestartPolicy

_log = logging.getLogger(__name__)

GIVE_UP_AFTER: Final = 3
"""How often a process may end before it is ready while the environment comes up."""
READY_TIMEOUT: Final = 90.0
"""Seconds until all processes must have been ready."""
FILES_PATIENCE: Final = 20.0
"""Seconds to wait for those that lack nothing but a file they follow."""
_REQUEST_TIMEOUT: Final = 15.0
_KILL_PATIENCE: Final = 8.0
"""Seconds to wait for a process that is just being started again, before it can be killed."""


class Step(StrEnum):
    """What a progress report is about."""

    STARTING = "starting"
    READY = "ready"
    DONE = "done"
    ENDED = "ended"
    LATER = "later"
    ALL_READY = "all-ready"


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of coming up."""

    step: Step
    process: str = ""
    text: str = ""


class ChildFailedError(UnavailableError):
    """A process of the environment does not become ready; ``log`` says why."""

    def __init__(self, process: str, what: str, log: Path) -> None:
        super().__init__(Reason.CHILD_FAILED, f"{process} {what}; see {log}")
        self.log = log


Identities = Mapping[str, ProcessIdentity]


@dataclass(slots=True)
class Supervisor:
    """Runs processes and the simulated link until it is told ``down``.

    :param remember: called with the identities of what runs whenever that changed, from a thread.
    """

    specs: Sequence[ChildSpec]
    link: SimulatedLink
    socket: Path
    remember: Callable[[Identities], None]
    policy: RestartPolicy = field(default_factory=RestartPolicy)
    ready_timeout: float = READY_TIMEOUT
    files_patience: float = FILES_PATIENCE
    report: Callable[[Progress], None] = lambda _: None
    _children: dict[str, Child] = field(init=False)
    _scopes: dict[str, trio.CancelScope] = field(init=False)
    _reported: dict[str, ChildState] = field(default_factory=dict)
    _changed: trio.Event = field(default_factory=trio.Event)
    _down: trio.Event = field(default_factory=trio.Event)
    _up: bool = False
    _known: Identities | None = None
    """What was remembered last."""

    def __post_init__(self) -> None:
        self._children = {spec.name: Child(spec, self.policy, self._note_change) for spec in self.specs}
        # Shielded: they are ended one after the other by _stop_children, whatever else is cancelled.
        self._scopes = {spec.name: trio.CancelScope(shield=True) for spec in self.specs}

    def down(self) -> None:
        """End everything."""
        self._down.set()
        self._note_change()

    async def run(self) -> None:
        """Bring everything up, keep it up, end it when told.

        :raises ChildFailedError: a process does not become ready.
        :raises UnavailableError: ``port_taken``: of the link.
        """
        failed: BsfgError | None = None
        try:
            await self._run()
        except* BsfgError as errors:
            failed = first_error(errors)
        if failed is not None:  # not in the clause above: before Python 3.11.4 it would come out as a group
            raise failed

    async def _run(self) -> None:
        async with trio.open_nursery() as services:
            await services.start(self.link.run)
            await services.start(self._serve)
            services.start_soon(self._keep_remembered)
            try:
                async with trio.open_nursery() as children:
                    try:
                        for spec in self.specs:
                            children.start_soon(self._supervise, spec)
                        await self._come_up()
                        await self._down.wait()
                    finally:
                        with trio.CancelScope(shield=True):
                            await self._stop_children()
                        children.cancel_scope.cancel()  # those that were never started
            finally:
                self.socket.unlink(missing_ok=True)
            services.cancel_scope.cancel()

    def status(self) -> SupervisorStatus:
        """What runs now."""
        processes = tuple(
            ProcessStatus(c.name, c.state, c.pid, c.since, c.restarts.total, c.last_end)
            for c in self._children.values()
        )
        cut = self.link.cut_how
        return SupervisorStatus(
            all(child.good for child in self._children.values()),
            os.getpid(),
            processes,
            LinkStatus(cut.value if cut else "", self.link.connections, self.link.bytes_carried),
        )

    async def handle(self, request: Request) -> dict[str, Any]:
        """Do what a request asks. :raises BsfgError: it cannot be done."""
        match request:
            case StatusRequest():
                return asdict(self.status())
            case CutRequest(how):
                await self.link.cut(how)
                _log.info("the simulated link is cut (%s)", how)
                return {}
            case HealRequest():
                await self.link.heal()
                _log.info("the simulated link is healed")
                return {}
            case KillRequest(name):
                self._pid(name)
                pid = await self._kill(self._children[name])
                _log.info("%s (pid %d) is killed as asked", name, pid)
                return {"pid": pid}
            case PowerCutRequest(names):
                running = [name for name in names if self._pid(name) is not None]
                killed = {name: self._children[name].kill() for name in running}
                _log.info("power cut, as asked: %s", ", ".join(killed))
                return {"pids": killed}
            case DownRequest():
                self.down()
                return {}

    def _pid(self, name: str) -> int | None:
        """The pid of a process while it runs. :raises RefusedError: ``bad_input``: nobody has that name."""
        if name not in self._children:
            raise RefusedError(Reason.BAD_INPUT, f"process {name!r}: {', '.join(self._children)}")
        return self._children[name].pid

    async def _kill(self, child: Child) -> int:
        with trio.move_on_after(_KILL_PATIENCE):
            while child.pid is None:
                await self._changed.wait()
        return child.kill()

    # -- processes -----------------------------------------------------------------------------------------------------

    async def _supervise(self, spec: ChildSpec) -> None:
        for name in spec.after:
            await self._children[name].was_ready.wait()
        with self._scopes[spec.name]:
            await self._children[spec.name].run()

    async def _come_up(self) -> None:
        """Wait until each has been ready once; not that long for those that lack nothing but files they follow.

        A box whose boundary key is locked gets no session, and works locally; so does an environment.
        """
        began = trio.current_time()
        with trio.move_on_after(self.ready_timeout) as scope:
            while late := self._late():
                if self._down.is_set():
                    return
                for child in late:
                    if child.starts_failed >= GIVE_UP_AFTER:
                        raise ChildFailedError(child.name, child.last_end, child.spec.log)
                if not all(child.lacks_files for child in late):
                    scope.deadline = began + self.ready_timeout
                elif scope.deadline == began + self.ready_timeout:
                    scope.deadline = min(scope.deadline, trio.current_time() + self.files_patience)
                await self._changed.wait()
        if not all(child.lacks_files for child in late):
            late.sort(key=lambda child: child.state is ChildState.WAITING)  # the culprit before those that wait for it
            raise ChildFailedError(late[0].name, f"is not ready after {self.ready_timeout:g} s", late[0].spec.log)
        for child in late:
            files = ", ".join(path.name for path in (*child.spec.needs, *child.spec.follows))
            self.report(Progress(Step.LATER, child.name, f"waits for {files}"))
            _log.warning("%s waits for %s", child.name, files)
        while self._known != self._running():  # whoever hears that all is ready may look up what runs
            await self._changed.wait()
        self._up = True
        self.report(Progress(Step.ALL_READY))
        _log.info("everything is ready")

    def _late(self) -> list[Child]:
        return [child for child in self._children.values() if not child.was_ready.is_set()]

    async def _stop_children(self) -> None:
        """Those that need others first, then the others."""
        left = dict(self._children)
        while left:
            needed = {name for child in left.values() for name in child.spec.after}
            ending = [name for name in left if name not in needed] or list(left)
            for name in ending:
                self._scopes[name].cancel()
            for name in ending:
                child = left.pop(name)
                while child.pid is not None:
                    await self._changed.wait()

    def _note_change(self) -> None:
        for child in self._children.values():
            if self._reported.get(child.name) is not child.state:
                self._reported[child.name] = child.state
                self._report_child(child)
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _report_child(self, child: Child) -> None:
        if child.state is ChildState.STARTING:
            _log.info("%s started, pid %s", child.name, child.pid)
        if self._up:
            return
        match child.state:
            case ChildState.STARTING:
                self.report(Progress(Step.STARTING, child.name))
            case ChildState.READY:
                self.report(Progress(Step.READY, child.name))
            case ChildState.DONE:
                self.report(Progress(Step.DONE, child.name))
            case ChildState.ENDED:
                self.report(Progress(Step.ENDED, child.name, child.last_end))
            case _:
                pass

    async def _keep_remembered(self) -> None:
        while True:
            changed = self._changed
            running = self._running()
            if running != self._known:
                await trio.to_thread.run_sync(self.remember, running)
                self._known = running
                self._note_change()
            else:
                await changed.wait()

    def _running(self) -> Identities:
        return {name: child.identity for name, child in self._children.items() if child.identity is not None}

    # -- the control socket --------------------------------------------------------------------------------------------

    async def _serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        self.socket.unlink(missing_ok=True)  # whoever holds the lock owns the socket: this one is stale
        with socket_address(self.socket) as address:
            await listener.bind(address)
        self.socket.chmod(0o600)
        listener.listen(16)
        task_status.started()
        await trio.serve_listeners(self._answer, [trio.SocketListener(listener)])

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            with trio.move_on_after(_REQUEST_TIMEOUT), contextlib.suppress(trio.BrokenResourceError):
                line = b""
                while not line.endswith(b"\n") and len(line) <= MAX_LINE:
                    chunk = await stream.receive_some(MAX_LINE)
                    if not chunk:
                        break
                    line += chunk
                try:
                    answer = encode_answer(await self.handle(parse_request(line)))
                except BsfgError as error:
                    answer = encode_error(error)
                await stream.send_all(answer)
