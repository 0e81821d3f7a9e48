# SPDX-License-Identifier: Apache-2.0
"""The keeper: the port's calls over one TPM, sessions renewed by itself, and its state for all to see.

Nobody waits for a renewal but the next one: sessions are issued ahead of time, and what hinders that is a state of the
keeper. Where the boundary key is locked, the session files are removed at once.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar

import trio

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId, parse_zone
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import Session, certificate_der
from appliance.keys.files import GROUP, replace_file
from appliance.keys.keeper.box import Box, Health, check_nonce
from appliance.keys.keeper.clock import KeeperClock
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.desk import SessionDesk
from appliance.keys.keeper.installed import DeviceCa
from appliance.keys.keeper.port import (
    BoxDescription,
    Certified,
    KeeperState,
    KeeperStatus,
    Latched,
    Quote,
    SessionInfo,
)
from appliance.keys.keeper.roles import check_secret_name, statement_kind
from appliance.keys.keeper.sessions import in_memory
from appliance.keys.keeper.values import to_json
from appliance.keys.keeper.wish import LatchWish
from appliance.keys.keeper.worker import Worker
from appliance.keys.tpm.provisioning import KEY_FILE
from appliance.keys.tpm.public import Digest

T = TypeVar("T")
TICK_S: Final = 1.0
CHECK_EVERY_S: Final = 5.0
"""How often the TPM is looked at when nothing else is asked of it."""
PROVISIONING_FACTOR: Final = 4
"""Making keys takes a TPM so many times longer than other calls."""
NOT_ASKED: Final = "not asked yet"
"""Why there is no TPM, in the first moments of the process."""
STATUS_FILE: Final = "keeper.json"
MOUNTS: Final = Path("/proc/self/mountinfo")
STATES: Final = {
    Reason.TPM_ABSENT: KeeperState.TPM_ABSENT,
    Reason.TPM_BUSY: KeeperState.TPM_BUSY,
    Reason.KEY_LATCHED: KeeperState.LATCHED,
    Reason.TPM_REFUSED: KeeperState.TPM_REFUSED,
    Reason.IMAGE_NOT_SIGNED: KeeperState.TPM_REFUSED,
    Reason.TPM_ALTERED: KeeperState.TPM_FAULT,
    Reason.TPM_FAULT: KeeperState.TPM_FAULT,
}
"""The state behind an error of the TPM; any other: there is no key."""

_log = logging.getLogger(__name__)


class Keeper:
    """A :class:`~appliance.keys.keeper.port.KeeperPort`. Everything but :meth:`run` may be called by many at once."""

    def __init__(self, config: KeeperConfig, clock: KeeperClock, jitter: Callable[[], float] = random.random) -> None:
        self._config = config
        self._clock = clock
        self._commands = 0
        self._health: Health | None = None
        self._error: BsfgError | None = UnavailableError(Reason.TPM_ABSENT, NOT_ASKED)
        self._counter: int | None = None
        """The counter, as long as nobody here changes what it means."""
        self._looked_at = -float("inf")
        self._state: KeeperState | None = None
        self._device_ca = DeviceCa(config)
        self._wish = LatchWish(config.state_dir)
        self._worker = Worker(self._open, config.tpm.timeout_s)
        self._desk = SessionDesk(config, clock.now, self._new_session, jitter)

    # -- its own life -------------------------------------------------------------------------------------------------

    async def run(self, on_tick: Callable[[KeeperState], None] = lambda _: None) -> None:
        """Look at the TPM, renew sessions and write the status document, until cancelled.

        :param on_tick: called each second, whatever the TPM does.
        """
        for folder, mode in (
            (self._config.state_dir, 0o700),
            (self._config.run_dir, 0o700),
            (self._config.session_dir, 0o755),
            (self._config.status_dir, 0o755),
        ):
            folder.mkdir(mode=mode, parents=True, exist_ok=True)
        if self._config.tpm.kind == "tpm" and not in_memory(self._config.session_dir, MOUNTS.read_text("utf-8")):
            raise RefusedError(Reason.BAD_INPUT, f"{self._config.session_dir} is not in a tmpfs")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell, on_tick)
                while True:
                    await self.tick()
                    await trio.sleep(TICK_S)
        finally:
            await self._worker.close()

    async def _tell(self, on_tick: Callable[[KeeperState], None]) -> None:
        while True:
            self._report()
            on_tick(self.state)
            await trio.sleep(TICK_S)

    async def tick(self) -> None:
        """Once round."""
        if self._wish.evidence is not None:
            with suppress(BsfgError):
                await self._latch(self._wish.evidence)
        if self._error is not None or trio.current_time() - self._looked_at >= CHECK_EVERY_S:
            await self._look()
        if self.state is KeeperState.READY:
            await self._desk.renew()
        self._report()

    async def _look(self) -> None:
        with suppress(BsfgError):
            self._health = await self._tpm(lambda box: box.check())
            self._counter, self._clock.tpm = self._health.counter, self._health.clock
            self._looked_at = trio.current_time()
            if self.state is KeeperState.LATCHED:
                self._desk.end()

    def _report(self) -> None:
        state = self.state
        if state is not self._state:
            _log.log(
                logging.INFO if state is KeeperState.READY else logging.WARNING,
                "state: %s %s",
                state,
                self._problem(),
            )
            if state is KeeperState.READY:
                self._desk.retry()
            self._state = state
        path = self._config.status_dir / STATUS_FILE
        values = {"pid": os.getpid(), "updated_at_unix_ms": time.time_ns() // 1_000_000, **to_json(self._status())}
        try:
            replace_file(path, json.dumps(values, indent=1).encode(), GROUP)
        except OSError as error:
            _log.warning("status: %s", error)

    @property
    def _provisioned(self) -> bool:
        return (self._config.state_dir / KEY_FILE).exists()

    @property
    def state(self) -> KeeperState:
        """What it can do now."""
        if self._wish.evidence is not None:
            return KeeperState.LATCHED
        error = self._error or (self._health.problem if self._health else None)
        if error is not None:
            unknown = KeeperState.TPM_FAULT if self._provisioned else KeeperState.NOT_PROVISIONED
            return STATES.get(error.reason, unknown)
        if self._device_ca.certificate is None:
            return KeeperState.NOT_ENROLLED
        if self._clock.unix_ms() is None:
            return KeeperState.TIME_UNKNOWN
        return KeeperState.READY

    def _problem(self) -> str:
        error = self._error or (self._health.problem if self._health else None)
        error = error or self._device_ca.problem or self._desk.problem
        if error is None and self._health is not None and self._health.successor:
            return f"{Reason.SUCCESSOR_WAITS}: {CATALOGUE[Reason.SUCCESSOR_WAITS].meaning}"
        return f"{error.reason}: {error.detail}" if error is not None else ""

    def _status(self) -> KeeperStatus:
        return KeeperStatus(
            state=self.state,
            kind=self._config.tpm.kind,
            zone=self._config.zone,
            counter=self._health.counter if self._health else None,
            boundary_offset_ns=self._clock.offset_ns(),
            floor_unix_ms=self._clock.floor_unix_ms(),
            sessions=self._desk.sessions,
            renewals=self._desk.renewals,
            commands=self._commands,
            problem=self._problem(),
        )

    # -- the TPM ------------------------------------------------------------------------------------------------------

    def _open(self, still_wanted: Callable[[], None]) -> Box:
        """Open the TPM, in its thread."""

        def count(_: str) -> None:
            self._commands += 1
            still_wanted()

        box = Box.open(self._config, count)
        self._device_ca.load(box.identity.public_key)
        self._remember(box)
        return box

    def _remember(self, box: Box) -> None:
        self._device_ca.remember(box.identity.public, lambda: box.enrolled(self._config.zone))

    async def _tpm(self, job: Callable[[Box], T], *, makes_keys: bool = False) -> T:
        """Run a job with the TPM; what it meets shows in the state."""
        slow = makes_keys or not self._provisioned
        patience_s = self._config.tpm.timeout_s * (PROVISIONING_FACTOR if slow else 1)
        try:
            result = await self._worker.run(job, deadline_s=patience_s)
        except BsfgError as error:
            self._failed(error)
            raise
        except Exception as defect:
            _log.exception("the TPM's thread")
            failure = UnavailableError(Reason.INTERNAL, f"{type(defect).__name__}: {defect}")
            self._failed(failure)
            raise failure from defect
        self._error = None
        return result

    def _failed(self, error: BsfgError) -> None:
        self._looked_at = -float("inf")  # whether it is the key's state shows when the TPM is looked at
        if not self._worker.connected or error.reason is Reason.TPM_BUSY:
            self._error = error

    # -- sessions -----------------------------------------------------------------------------------------------------

    async def session(self, name: str) -> SessionInfo:
        """As the port says; a renewal that fails for now leaves the present certificate in use until it ends."""
        return await self._desk.session(name)

    async def _new_session(self, moment: datetime | None) -> Session:
        self._wish.check()
        device_ca = self._device_ca.needed()
        if moment is None:
            raise UnavailableError(Reason.TIME_UNKNOWN)
        session = await self._tpm(lambda box: box.issue(self._config.zone, device_ca, moment))
        self._wish.check()  # a latch may have been asked for meanwhile
        return session

    # -- the port's other calls ---------------------------------------------------------------------------------------

    async def status(self) -> KeeperStatus:
        """As the port says."""
        return self._status()

    async def sign(self, statement: bytes) -> Signature:
        """As the port says."""
        statement_kind(statement)
        self._wish.check()
        certificate = certificate_der(self._device_ca.needed())
        signature = Signature(await self._tpm(lambda box: box.sign(statement)), certificate)
        if certificate != certificate_der(self._device_ca.needed()):  # another key took over meanwhile
            return await self.sign(statement)
        return signature

    async def seal(self, name: str, secret: bytes) -> None:
        """As the port says."""
        check_secret_name(name)
        await self._tpm(lambda box: box.seal(name, secret))

    async def unseal(self, name: str) -> bytes:
        """As the port says."""
        check_secret_name(name)
        self._wish.check()
        return await self._tpm(lambda box: box.unseal(name))

    async def quote(self, nonce: bytes) -> Quote:
        """As the port says."""
        check_nonce(nonce)
        return await self._tpm(lambda box: box.quote(nonce))

    async def latch(self, evidence: Digest) -> Latched:
        """As the port says. From the call on the key is used for nothing, though the TPM should not answer."""
        if len(evidence) != 32:
            raise RefusedError(Reason.BAD_INPUT, "a digest has 32 bytes")
        self._desk.end()
        try:
            await trio.to_thread.run_sync(self._wish.make, evidence, self._counter)
        except OSError as error:
            _log.error("a latch that is cut short will not be remembered: %s", error)
        return await self._latch(evidence)

    async def _latch(self, evidence: Digest) -> Latched:
        self._counter = None
        try:
            latched = await self._tpm(lambda box: box.latch(evidence, self._wish.after))
            self._wish.fulfil()
            return latched
        finally:
            await self._look()

    async def describe(self) -> BoxDescription:
        """As the port says."""
        return await self._tpm(lambda box: box.describe(), makes_keys=True)

    async def certificate_request(self) -> bytes:
        """As the port says."""
        self._wish.check()
        return await self._tpm(lambda box: box.certificate_request(self._config.zone))

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        """As the port says."""
        return await self._tpm(lambda box: box.activate(credential, secret), makes_keys=True)

    async def certify(self, nonce: bytes) -> Certified:
        """As the port says."""
        check_nonce(nonce)
        return await self._tpm(lambda box: box.certify(nonce))

    async def install(self, device_ca: bytes) -> None:
        """As the port says."""
        key = await self._tpm(lambda box: box.identity.public_key)
        await trio.to_thread.run_sync(self._device_ca.install, device_ca, key)
        await self._tpm(self._remember)
        await trio.to_thread.run_sync(self._clock.forget_floor)
        self._desk.end()  # of the former certificate
        await self.tick()

    async def with_successor(self, job: Callable[[Box], T]) -> T:
        """Run a job on the key that waits to take over. :raises UnavailableError: ``no_successor``."""
        return await self._tpm(lambda box: job(box.needed_successor()), makes_keys=True)

    async def succeed(self, device_ca: bytes) -> None:
        """Take the certificate (DER) of the key that waits, and switch to that key.

        :raises UnavailableError: ``no_successor``. :raises DeniedError: ``bad_certificate``, ``key_latched``.
        """
        self._wish.check()
        key = await self.with_successor(lambda box: box.identity.public_key)
        self._device_ca.prepare(device_ca, key)
        await self._tpm(lambda box: box.succeed())
        self._device_ca.load(key)
        await self._tpm(self._remember)
        self._desk.end()  # of the former key
        await self._look()
        await self.tick()

    async def import_release(self, release: bytes) -> None:
        """As the port says."""
        self._counter = None
        await self._tpm(lambda box: box.import_release(release))
        await self._look()
        await self.tick()

    async def time_nonce(self) -> bytes:
        """As the port says."""
        return self._clock.nonce()

    async def set_time(self, token: bytes) -> int:
        """As the port says."""
        came_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        tpm = None
        with suppress(BsfgError):  # without it, only the floor after a restart is less
            tpm = await self._tpm(lambda box: box.clock())
        unix_ms = await trio.to_thread.run_sync(self._clock.take, token, came_ns, tpm)
        await self.tick()
        return unix_ms

    async def hub_ca(self) -> bytes:
        """As the port says; also while latched, if it was made before."""
        now = self._hub_time()
        return await self._tpm(lambda box: box.hub_ca(self._config.zone, now), makes_keys=True)

    async def certify_zone(self, zone: ZoneId, request: bytes) -> bytes:
        """As the port says. Dates are by this keeper's time, whatever the caller's is."""
        now, zone = self._hub_time(), parse_zone(zone)
        self._wish.check()
        made = await self._tpm(lambda box: box.certify_zone(self._config.zone, zone, request, now), makes_keys=True)
        self._wish.check()  # a latch may have been asked for meanwhile
        return made

    def _hub_time(self) -> datetime:
        """Boundary time. :raises RefusedError: ``bad_input``: only a hub's keeper has a hub CA."""
        if not self._config.is_hub:
            raise RefusedError(
                Reason.BAD_INPUT, f"this is zone {self._config.zone}'s keeper; only a hub's has a hub CA"
            )
        now = self._clock.now()
        if now is None:
            raise UnavailableError(Reason.TIME_UNKNOWN)
        return now
