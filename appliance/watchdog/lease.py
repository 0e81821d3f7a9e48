# SPDX-License-Identifier: Apache-2.0
"""The egress lease: packets leave the uplink while it lasts, and it lasts five seconds.

The firewall lets the box speak while an element stands in one of its sets, and the kernel removes that element by
itself. A thread of its own puts it there anew each second, as long as it has a :class:`Permit` that is younger than
:data:`PERMIT_S`. So whatever stops the process, closes the uplink with no code running; whatever stops only its main
loop, makes the thread take the element away.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from appliance.boundary.errors import BsfgError

LEASE_S: Final = 5
RENEW_EVERY_S: Final = 1.0
PERMIT_S: Final = 3.0
"""How long the main loop's word counts; it gives it each second."""
CHANGE_S: Final = 0.5
"""How long who makes the uplink dark waits for who was about to end the dark; then it is done all the same."""
_JOIN_S: Final = 3.0

_log = logging.getLogger(__name__)


class EgressLease(Protocol):
    """What stands between the box and its uplink. Blocking; one caller at a time.

    An implementation starts out closed or with whatever an earlier one left, which ends within :data:`LEASE_S`.
    """

    def renew(self) -> None:
        """Let packets out for :data:`LEASE_S` seconds from now, never a moment without and never for longer.

        Only where all of the firewall stands that judges what leaves; otherwise it is closed.

        :raises UnavailableError: ``firewall_fault``: it is closed, or cannot be renewed and ends by itself.
        """
        ...

    def close(self) -> None:
        """Let none out, now; also when there is no lease.

        :raises UnavailableError: ``firewall_fault``: it could not be taken away, and ends by itself.
        """
        ...


class Blackout(Protocol):
    """What makes the uplink dark: nothing at all leaves there, not even what may before health is proven. Blocking.

    It is set in the kernel, so it outlives this process, and not the machine's next start.
    """

    def dark(self, why: str) -> None:
        """Let nothing out any more, now, and end the lease; also when it is dark already, and where no firewall is.

        :param why: the code of the suspicion, which stays beside it; of the last call.
        :raises UnavailableError: ``firewall_fault``: the kernel refuses, whatever was tried.
        """
        ...

    def darkened(self) -> str | None:
        """Why it is dark, or an empty text where nothing says why; ``None``: it is not.

        :raises UnavailableError: ``firewall_fault``, ``bad_environment``: it cannot be seen.
        """
        ...

    def light(self) -> None:
        """End the dark; the lease stays closed. For a box that turns out not to be in quarantine.

        :raises UnavailableError: ``firewall_fault``.
        """
        ...


@dataclass(slots=True)
class Permit:
    """The main loop's word that the box may speak; it wears off. Any thread may read it."""

    _until: float = -float("inf")
    forbidden: str | None = None
    """Why nothing at all may leave: the uplink must be dark."""
    _changing: threading.Lock = field(default_factory=threading.Lock)

    def give(self, now: float) -> None:
        """It may, for :data:`PERMIT_S` from now (monotonic clock)."""
        self._until = now + PERMIT_S

    def take_back(self) -> None:
        """It may not."""
        self._until = -float("inf")

    def holds(self, now: float) -> bool:
        """Whether it may speak now."""
        return now < self._until and self.forbidden is None

    def forbid(self, why: str | None) -> None:
        """It may not, and not even what needs no permit may leave. Waits for :meth:`unless_forbidden`, for a moment.

        :param why: a code; ``None``: that is over.
        """
        waited = self._changing.acquire(timeout=CHANGE_S)
        self._until, self.forbidden = -float("inf"), why
        if waited:
            self._changing.release()

    def unless_forbidden(self, work: Callable[[], None]) -> None:
        """Do something that must not come after the uplink was made dark, and not at all if it is to be."""
        with self._changing:
            if self.forbidden is None:
                work()


@dataclass(slots=True)
class Renewal:
    """The thread that renews the lease while there is a permit, and closes it when there is none.

    :param blackout: for this thread alone.
    """

    lease: EgressLease
    blackout: Blackout | None = None
    """Where the uplink must be dark this is seen to each round, for somebody may have loaded the firewall anew. So this
    thread also ends the dark, once, when a doubt turns out to be none.
    """
    permit: Permit = field(default_factory=Permit)
    every_s: float = RENEW_EVERY_S
    problem: str = ""
    """Why the last attempt failed; empty: it did not."""
    is_open: bool = False
    """Whether the last attempt renewed the lease."""
    rounds: int = 0
    _wake: threading.Event = field(default_factory=threading.Event)
    _darkened: bool = False
    _ends: bool = False
    _thread: threading.Thread | None = None
    _round_at: float = -float("inf")

    def start(self) -> None:
        """Begin; the lease is closed first, whatever an earlier process left."""
        self._thread = threading.Thread(target=self._run, name="lease", daemon=True)
        self._thread.start()

    def look_now(self) -> None:
        """The permit has changed: do not wait for the next round."""
        self._wake.set()

    def alive(self, now: float) -> bool:
        """Whether the thread came round lately; a thread that is stuck renews nothing."""
        return now - self._round_at <= 3 * self.every_s + 1.0

    def stop(self) -> None:
        """End the thread, which closes the lease. Blocking, for a few seconds at most."""
        self._ends = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        while True:
            self._wake.clear()
            ends = self._ends
            self.round(may_speak=not ends)
            if ends:
                return
            self._wake.wait(self.every_s)

    def round(self, *, may_speak: bool = True) -> None:
        """Once: renew or close. :param may_speak: ``False``: close, whatever the permit says."""
        wanted = may_speak and self.permit.holds(time.monotonic())
        try:
            why = self.permit.forbidden
            if why is not None and self.blackout is not None:
                self._darkened = True
                self.blackout.dark(why)
            else:
                if self._darkened and self.blackout is not None:
                    self.permit.unless_forbidden(self.blackout.light)
                    self._darkened = False
                (self.lease.renew if wanted else self.lease.close)()
            problem = ""
        except BsfgError as error:
            problem = f"{error.reason}: {error.detail}"
        except Exception as error:  # noqa: BLE001 - the thread must go on: another round may work
            problem = f"internal: {type(error).__name__}: {error}"
        if problem and problem != self.problem:
            _log.error("the egress lease: %s", problem)
        self.problem, self.is_open = problem, wanted and not problem
        self.rounds += 1
        self._round_at = time.monotonic()
