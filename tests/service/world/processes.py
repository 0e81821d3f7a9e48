# SPDX-License-Identifier: Apache-2.0
"""The processes of two zones, run by the development environment's own supervisor in a thread of the test.

In a thread, so that a test that is killed takes its processes with it; and with short pauses, so that many kills fit
into a test.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import trio

from appliance.boundary.errors import BsfgError
from appliance.brokers.binary import BrokerBinary
from appliance.dev.control import CutRequest, HealRequest, KillRequest
from appliance.dev.environment import Environment
from appliance.dev.link import Cut
from appliance.dev.processes import child_specs
from appliance.dev.restarts import RestartPolicy
from appliance.dev.running import link_of, make_ready
from appliance.dev.supervisor import Supervisor

T = TypeVar("T")

RESTARTS: Final = RestartPolicy(first=0.05, longest=0.2, proven=5.0)
_UP_S: Final = 60.0
_DOWN_S: Final = 60.0
_CALL_S: Final = 30.0


class Processes:
    """One life of all processes and the simulated link. All methods block; they may be called from any thread."""

    def __init__(self, environment: Environment, broker: BrokerBinary) -> None:
        self._environment = environment
        self._broker = broker
        self._supervisor: Supervisor | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._up = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name="supervisor", daemon=True)

    def start(self) -> None:
        """Return when everything is ready. :raises BsfgError: it does not come up."""
        self._thread.start()
        came_up = self._up.wait(_UP_S)
        if self._failure is not None:
            raise self._failure
        assert came_up, "the supervisor hangs"

    def stop(self) -> None:
        """End everything in good order."""
        with suppress(trio.RunFinishedError):
            self._call(self._down)
        self._thread.join(_DOWN_S)
        assert not self._thread.is_alive(), "the supervisor does not end"
        if self._failure is not None:
            raise self._failure

    def kill(self, process: str) -> bool:
        """SIGKILL a process; ``False`` when it does not run right now."""
        try:
            self._handle(KillRequest(process))
        except BsfgError:
            return False
        return True

    def cut(self, how: Cut) -> None:
        """Cut the simulated link."""
        self._handle(CutRequest(how))

    def heal(self) -> None:
        """Heal the simulated link."""
        self._handle(HealRequest())

    def pid(self, process: str) -> int | None:
        """The pid of a process while it runs."""

        async def find(supervisor: Supervisor) -> int | None:
            return next(entry.pid for entry in supervisor.status().processes if entry.name == process)

        return self._call(find)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _handle(self, request: CutRequest | HealRequest | KillRequest) -> None:
        async def handle(supervisor: Supervisor) -> None:
            await supervisor.handle(request)

        self._call(handle)

    def _call(self, function: Callable[[Supervisor], Coroutine[Any, Any, T]]) -> T:
        supervisor, token = self._supervisor, self._token
        if supervisor is None or token is None:
            raise RuntimeError("the processes were never started")

        async def bounded() -> T:
            with trio.fail_after(_CALL_S):
                return await function(supervisor)

        return trio.from_thread.run(bounded, trio_token=token)

    @staticmethod
    async def _down(supervisor: Supervisor) -> None:
        supervisor.down()

    def _live(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:  # noqa: BLE001 - it is raised by start or stop, in the test's own thread
            self._failure = error
        finally:
            self._up.set()

    async def _run(self) -> None:
        environment = await trio.to_thread.run_sync(make_ready, self._environment.layout)
        supervisor = Supervisor(
            child_specs(environment, self._broker),
            link_of(environment),
            environment.layout.socket,
            lambda running: None,
            policy=RESTARTS,
            report=lambda progress: self._up.set() if progress.step == "all-ready" else None,
        )
        self._supervisor, self._token = supervisor, trio.lowlevel.current_trio_token()
        await supervisor.run()
