# SPDX-License-Identifier: Apache-2.0
"""What a node can prove at the boundary now, and why it cannot: session, boundary time, keeper.

Nothing here is needed for local work, and nothing here raises while the node starts: a box without keeper, enrolment,
session or time takes facts as always, and says in its status what it waits for.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import trio

from appliance.boundary.claims import Signal
from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import KeeperPort, KeeperState, KeeperStatus
from appliance.keys.registry import LiveRegistry
from appliance.keys.software import SoftwareKeys
from appliance.node.certificates import CertificateKind, describe, limited
from appliance.node.status import BoundaryStatus, CertificateStatus
from appliance.peer.handshakes import HandshakeCounts
from appliance.peer.identity import LONGEST_SESSION_S
from appliance.peer.tls import OwnCredential, SessionFiles

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
KEEPER_PATIENCE_S: Final = 5.0
NOTICES: Final = {
    "software": "SOFTWARE KEYS: private keys are files. For development only, never for a plant.",
    "swtpm": "SOFTWARE TPM: it protects nothing. For development only, never for a plant.",
}
"""By kind of keys: the line that status documents, logs and the demo show."""
_STATES: Final = {
    KeeperState.NOT_PROVISIONED: UnavailableError(Reason.NOT_ENROLLED, "the TPM holds no boundary key yet"),
    KeeperState.NOT_ENROLLED: UnavailableError(Reason.NOT_ENROLLED),
    KeeperState.TIME_UNKNOWN: UnavailableError(Reason.TIME_UNKNOWN),
    KeeperState.LATCHED: DeniedError(Reason.KEY_LATCHED),
    KeeperState.TPM_BUSY: UnavailableError(Reason.TPM_BUSY),
    KeeperState.TPM_ABSENT: UnavailableError(Reason.TPM_ABSENT),
    KeeperState.TPM_REFUSED: DeniedError(Reason.TPM_REFUSED),
    KeeperState.TPM_FAULT: UnavailableError(Reason.TPM_FAULT),
}
"""Why a keeper in a state issues no sessions."""


class BoundaryNow:
    """Boundary time as a node reads it: Unix seconds.

    :param wall: the wall clock is boundary time: on hubs, and with software keys, which have no keeper to ask.
    """

    def __init__(self, *, wall: bool) -> None:
        self._wall = wall
        self._offset_ns: int | None = None

    @property
    def source(self) -> str:
        """``wall_clock``, ``hub_token`` or ``unknown``."""
        if self._wall:
            return "wall_clock"
        return "unknown" if self._offset_ns is None else "hub_token"

    def learn(self, offset_ns: int | None) -> None:
        """Take the keeper's word: boundary time minus CLOCK_BOOTTIME. It stays good when the keeper goes away."""
        if offset_ns is not None:
            self._offset_ns = offset_ns

    def __call__(self) -> float:
        """Now. :raises UnavailableError: ``time_unknown``."""
        if self._wall:
            return time.time()
        if self._offset_ns is None:
            raise UnavailableError(Reason.TIME_UNKNOWN)
        return (time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._offset_ns) / 1e9

    def known(self) -> float | None:
        """Now, if it is known."""
        return None if self.source == "unknown" else self()


class Standing:
    """Follows session, registry and keeper; servers and clients take their credential from here.

    :param keeper: ``None`` with software keys. :param software: the keys whose session is renewed here, if they are.
    """

    def __init__(
        self,
        kind: str,
        session: SessionFiles,
        registry: LiveRegistry,
        now: BoundaryNow,
        *,
        keeper: KeeperPort | None = None,
        software: SoftwareKeys | None = None,
    ) -> None:
        self.registry, self.now, self.handshakes = registry, now, HandshakeCounts()
        self.changed = Signal()
        """Fires when the problem is another one, or there is none any more."""
        self.keeper_status: KeeperStatus | None = None
        self._kind, self._session, self._keeper, self._software = kind, session, keeper, software
        self.longest_session_s = LONGEST_SESSION_S if software is None else float("inf")
        """Software keys have long sessions, and whoever can read them needs none."""
        self.keeper_problem: BsfgError | None = None
        """Why the keeper issues no sessions now, whether or not the present one is still good."""
        self.proves = False
        """Whether there is a credential."""
        self.problem: BsfgError | None = None
        """Why there is none, once it was looked at."""

    @property
    def kind(self) -> str:
        """``software``, ``tpm`` or ``swtpm``; ``keeper``: it has not answered yet."""
        return self.keeper_status.kind if self.keeper_status is not None else self._kind

    def credential(self) -> OwnCredential:
        """What we prove ourselves with now; called for every connection.

        :raises BsfgError: why there is nothing: ``no_session``, ``bad_certificate`` (ours has ended), or what the
            keeper says of itself.
        """
        try:
            own = self._session()
            own.check(self.now())
        except BsfgError as error:
            raise (self.keeper_problem or error) from None
        return own

    async def ready(self) -> None:
        """Wait until there is a credential."""
        while True:
            changed = self.changed.next()
            if self.proves:
                return
            await changed.wait()

    async def run(self) -> None:
        """Follow everything until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.registry.run)
            while True:
                await self._ask_keeper()
                await trio.to_thread.run_sync(self._renew_software_session)
                self._look()
                await trio.sleep(LOOK_EVERY_S)

    def status(self) -> BoundaryStatus:
        """For the status document."""
        keeper, now = self.keeper_status, self.now.known()
        return BoundaryStatus(
            notice=NOTICES.get(self.kind, ""),
            state=self._state(),
            time=self.now.source,
            unix_ms=None if now is None else int(now * 1000),
            floor_unix_ms=keeper.floor_unix_ms if keeper is not None else None,
            counter=keeper.counter if keeper is not None else None,
            commands=keeper.commands if keeper is not None else 0,
            keeper_renewals=keeper.renewals if keeper is not None else 0,
            renewals=self._session.renewals,
            handshakes_accepted=self.handshakes.accepted,
            handshakes_refused=dict(self.handshakes.refused),
        )

    def certificates(self) -> list[CertificateStatus]:
        """Every certificate the boundary depends on here, by boundary time."""
        now, own, found = self.now.known(), self._session.last, []
        serial = own.serial if own is not None else ""
        if own is not None:
            kinds = (CertificateKind.SESSION, CertificateKind.DEVICE_CA, CertificateKind.HUB_CA)
            found = [describe(kind, kind, one, now) for kind, one in zip(kinds, own.certificates, strict=False)]
        for name, session in self.keeper_status.sessions.items() if self.keeper_status is not None else ():
            if session.serial != serial:
                left = None if now is None else int(session.ends_at - now)
                found.append(limited(f"session {name}", CertificateKind.SESSION, session.ends_at, left))
        return found

    # -- inside --------------------------------------------------------------------------------------------------------

    def _state(self) -> str:
        if self.keeper_problem is not None:
            return self.keeper_status.state if self.keeper_status is not None else str(self.keeper_problem.reason)
        if self.problem is not None:
            return str(self.problem.reason)
        return "ready" if self.proves else "starting"

    async def _ask_keeper(self) -> None:
        if self._keeper is None:
            return
        status, problem = None, UnavailableError(Reason.KEEPER_UNAVAILABLE, f"silent for {KEEPER_PATIENCE_S:g} s")
        with trio.move_on_after(KEEPER_PATIENCE_S):
            try:
                status = await self._keeper.status()
            except UnavailableError as error:
                problem = error
            except BsfgError as error:
                problem = UnavailableError(error.reason, error.detail)
        if status is None:
            self.keeper_status, self.keeper_problem = None, problem
            return
        if self.keeper_status is None and (notice := NOTICES.get(status.kind)):
            _log.warning(notice)
        self.keeper_status, self.keeper_problem = status, None
        if status.state is not KeeperState.READY:
            known = _STATES[status.state]
            detail = status.problem.removeprefix(f"{known.reason}: ")  # it is said once
            self.keeper_problem = type(known)(known.reason, detail or known.detail)
        self.now.learn(status.boundary_offset_ns)

    def _renew_software_session(self) -> None:
        if self._software is not None:
            try:
                self._software.renew_when_due()
            except (OSError, BsfgError) as error:
                _log.warning("the session could not be renewed: %s", error)

    def _look(self) -> None:
        former = self.proves, str(self.problem)
        try:
            self.credential()
        except BsfgError as error:
            self.proves, self.problem = False, error
        else:
            self.proves, self.problem = True, None
        if former != (self.proves, str(self.problem)):
            _log.info("session: %s", self.problem or "there is one")
            self.changed.fire()
