# SPDX-License-Identifier: Apache-2.0
"""The key that waits to take over, as enrolment sees it: the port on a second socket, for administrators alone.

The dialogue of enrolment is the same as for a first key. Its last step, :meth:`SuccessorKeeper.install`, switches the
keeper to the new key; until then all other calls are the business of the key in use, on the keeper's own socket.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NoReturn, Protocol, TypeVar

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.keeper.box import Box, check_nonce
from appliance.keys.keeper.config import KeeperConfig
from appliance.keys.keeper.port import BoxDescription, Certified, KeeperState, KeeperStatus, Latched, Quote, SessionInfo
from appliance.keys.keeper.roles import Role
from appliance.keys.tpm.public import Digest

T = TypeVar("T")


class Succeeding(Protocol):
    """What the keeper lends for it."""

    async def status(self) -> KeeperStatus:
        """The keeper's status."""
        ...

    async def with_successor(self, job: Callable[[Box], T]) -> T:
        """Run a job on the key that waits. :raises UnavailableError: ``no_successor``: none does."""
        ...

    async def succeed(self, device_ca: bytes) -> None:
        """Take the certificate of the key that waits, and switch to it."""
        ...


def successor_config(config: KeeperConfig) -> KeeperConfig:
    """The configuration of the second socket."""
    callers = {uid: roles & {Role.ADMINISTRATOR} for uid, roles in config.callers.items()}
    return replace(config, socket=successor_socket(config.socket), callers=callers)


def successor_socket(socket: Path) -> Path:
    """Where the second socket is: ``keeper-next.sock`` beside ``keeper.sock``."""
    return socket.with_name(f"{socket.stem}-next{socket.suffix}")


class SuccessorKeeper:
    """A :class:`~appliance.keys.keeper.port.KeeperPort`, as far as a key that is not in use can be one."""

    def __init__(self, keeper: Succeeding, zone: ZoneId) -> None:
        self._keeper = keeper
        self._zone = zone

    async def status(self) -> KeeperStatus:
        """The keeper's, with the state of the key that waits."""
        status = await self._keeper.status()
        state, problem = KeeperState.NOT_ENROLLED, ""
        try:
            await self._keeper.with_successor(lambda box: box.identity)
        except UnavailableError as error:
            state, problem = KeeperState.NOT_PROVISIONED, f"{error.reason}: {error.detail}"
        return replace(status, state=state, problem=problem, sessions={})

    async def describe(self) -> BoxDescription:
        """As the port says."""
        return await self._keeper.with_successor(lambda box: box.describe())

    async def certificate_request(self) -> bytes:
        """As the port says."""
        return await self._keeper.with_successor(lambda box: box.certificate_request(self._zone))

    async def activate(self, credential: bytes, secret: bytes) -> bytes:
        """As the port says."""
        return await self._keeper.with_successor(lambda box: box.activate(credential, secret))

    async def certify(self, nonce: bytes) -> Certified:
        """As the port says."""
        check_nonce(nonce)
        return await self._keeper.with_successor(lambda box: box.certify(nonce))

    async def quote(self, nonce: bytes) -> Quote:
        """As the port says."""
        check_nonce(nonce)
        return await self._keeper.with_successor(lambda box: box.quote(nonce))

    async def install(self, device_ca: bytes) -> None:
        """Take the certificate and switch to the new key. :raises DeniedError: ``bad_certificate``, ``key_latched``."""
        await self._keeper.succeed(device_ca)

    async def session(self, name: str) -> SessionInfo:
        """:raises UnavailableError: ``not_enrolled``: the key is not in use."""
        _not_in_use(name)

    async def sign(self, statement: bytes) -> Signature:
        """:raises UnavailableError: ``not_enrolled``: the key is not in use."""
        _not_in_use(statement[:20])

    async def seal(self, name: str, secret: bytes) -> None:  # noqa: ARG002
        """:raises UnavailableError: ``not_enrolled``: the key is not in use."""
        _not_in_use(name)

    async def unseal(self, name: str) -> bytes:
        """:raises UnavailableError: ``not_enrolled``: the key is not in use."""
        _not_in_use(name)

    async def latch(self, evidence: Digest) -> Latched:
        """:raises UnavailableError: ``not_enrolled``: the keeper's own socket latches."""
        _not_in_use(evidence)

    async def import_release(self, release: bytes) -> None:
        """:raises UnavailableError: ``not_enrolled``: the key is not in use."""
        _not_in_use(release[:20])

    async def time_nonce(self) -> bytes:
        """:raises UnavailableError: ``not_enrolled``: the keeper's own socket takes time."""
        _not_in_use("time")

    async def set_time(self, token: bytes) -> int:
        """:raises UnavailableError: ``not_enrolled``: the keeper's own socket takes time."""
        _not_in_use(token[:20])

    async def hub_ca(self) -> bytes:
        """:raises UnavailableError: ``not_enrolled``: the keeper's own socket has the hub CA."""
        _not_in_use("hub CA")

    async def certify_zone(self, zone: ZoneId, request: bytes) -> bytes:  # noqa: ARG002
        """:raises UnavailableError: ``not_enrolled``: the keeper's own socket has the hub CA."""
        _not_in_use(zone)


def _not_in_use(_: object) -> NoReturn:
    raise UnavailableError(Reason.NOT_ENROLLED, "this is the key that waits to take over; ask the keeper's own socket")
