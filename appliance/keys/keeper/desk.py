# SPDX-License-Identifier: Apache-2.0
"""The sessions in use: issues them when due, keeps their files, and removes them all at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import datetime

import trio

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import Session
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.port import SESSION_NAMES, SessionInfo
from appliance.keys.keeper.sessions import RenewalSchedule, write_session

_WAITS = frozenset({Reason.NOT_ENROLLED, Reason.TIME_UNKNOWN})
"""No failures: there is nothing to issue yet."""


class SessionDesk:
    """Several may ask for sessions at once; each is issued once.

    :param now: boundary time. :param issue: makes a session at that time, or says why not.
    :param jitter: a number from 0 to 1.
    """

    def __init__(
        self,
        config: KeeperConfig,
        now: Callable[[], datetime | None],
        issue: Callable[[datetime | None], Awaitable[Session]],
        jitter: Callable[[], float],
    ) -> None:
        self._config = config
        self._now = now
        self._issue = issue
        self._schedules = {name: RenewalSchedule(jitter, config.session_s) for name in SESSION_NAMES}
        self._turns = {name: trio.Lock() for name in SESSION_NAMES}
        self._sessions: dict[str, SessionInfo] = {}
        self.renewals = 0
        self.problem: BsfgError | None = None
        """Why the last attempt failed."""

    @property
    def sessions(self) -> Mapping[str, SessionInfo]:
        """Those in use, by name."""
        return dict(self._sessions)

    async def session(self, name: str) -> SessionInfo:
        """The session of that name; a renewal that fails for now leaves the present one in use until it ends.

        :raises RefusedError: ``bad_input``: no such session. :raises BsfgError: why there is none.
        """
        if name not in self._schedules:
            raise RefusedError(Reason.BAD_INPUT, f"the sessions are {', '.join(SESSION_NAMES)}")
        try:
            return await self._renewed(name)
        except UnavailableError:
            now = self._now()
            if now is None or not self._schedules[name].good(now.timestamp()):
                raise
            return self._sessions[name]

    async def renew(self) -> None:
        """Issue whatever is due; what fails is tried again later."""
        for name, schedule in self._schedules.items():
            now = self._now()
            if now is not None and schedule.due(now.timestamp()):
                with suppress(BsfgError):
                    await self._renewed(name)

    def retry(self) -> None:
        """What made attempts fail is over: the next ones may come at once."""
        for schedule in self._schedules.values():
            schedule.retry()

    def end(self) -> None:
        """Remove all session files: a locked box keeps no session key, not even in memory."""
        for name, schedule in self._schedules.items():
            with suppress(OSError):
                (self._config.session_dir / f"{name}.pem").unlink(missing_ok=True)
            schedule.forget()
        self._sessions.clear()

    async def _renewed(self, name: str) -> SessionInfo:
        schedule = self._schedules[name]
        async with self._turns[name]:
            moment = self._now()
            now = None if moment is None else moment.timestamp()
            if now is not None and schedule.good(now) and not schedule.due(now):
                return self._sessions[name]
            try:
                info = self._written(name, await self._issue(moment))
            except BsfgError as error:
                if error.reason not in _WAITS and now is not None:
                    self.problem = error
                    schedule.failed(now)
                if error.reason is Reason.KEY_LATCHED:
                    self.end()
                raise
            self.problem = None
            if now is not None:
                schedule.issued(now, info.ends_at)
            self._sessions[name] = info
            self.renewals += 1
            return info

    def _written(self, name: str, session: Session) -> SessionInfo:
        path = self._config.session_dir / f"{name}.pem"
        try:
            write_session(path, session.pem(), self._config.groups.get(name))
        except OSError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{path}: {error.strerror}") from error
        certificate = session.certificate
        return SessionInfo(path, certificate.not_valid_after_utc.timestamp(), f"{certificate.serial_number:x}")
