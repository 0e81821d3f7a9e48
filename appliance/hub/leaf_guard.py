# SPDX-License-Identifier: Apache-2.0
"""Ends leaf connections that outlive their proof, and keeps denied boxes out of the hub's nats-control.

nats-server checks a leaf's certificate when it connects and never again, knows no deny list, and looks at the wall
clock. So the hub does three things through the broker's system account (all tried on nats-server 2.15.1):

* It writes the **file of device CAs** that the leaf listener takes for its roots: those that are registered and not
  denied, and nothing else. A change is followed by ``RELOAD``, which leaves connections alone; from then on a denied
  box is refused in the handshake.
* It **kicks** (``KICK``) the leaves of a zone one of whose device CAs was taken off, at once. A box that is still
  trusted comes back by itself.
* It kicks every leaf that is older than the longest session: its certificate has ended. It comes back with its present
  one, if it has one. Leaves that were there before the guard are of unknown age, and are kicked too.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any, Final

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError, RefusedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.brokers.control import zone_account
from appliance.factlog.natslogin import Credentials
from appliance.factlog.natswire import NatsWire
from appliance.keys.certificates import SESSION_VALIDITY, certificate_der, certificate_pem
from appliance.keys.files import PUBLIC, write_atomically
from appliance.keys.registry import LiveRegistry
from appliance.node.config import ControlConfig

_log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
SYSTEM_USER: Final = "sys"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf connection, as the broker reports it (LEAFZ)."""

    id: int
    account: str


@dataclass(slots=True)
class LeafBook:
    """Which leaves there are and how old they may be; pure. Times are seconds of a clock that only grows.

    The broker does not say when a leaf connected: not before the broker started, and not before the last look that did
    not show it.

    :param longest_s: a leaf may be this old, and not older.
    """

    longest_s: float
    server: str = ""
    """The broker's id, another one after each start."""
    _since: dict[int, float] = field(default_factory=dict)
    _not_before: float = 0.0

    def begin(self, server: str, uptime_s: float, now: float) -> None:
        """Another broker answers, or the same one started again."""
        self.server, self._since, self._not_before = server, {}, now - uptime_s

    def step(self, leaves: Iterable[Leaf], suspended: set[str], now: float) -> list[Leaf]:
        """Take what the broker reports; which leaves to kick. :param suspended: accounts whose leaves all go."""
        present = {leaf.id: leaf for leaf in leaves}
        self._since = {number: self._since.get(number, self._not_before) for number in present}
        self._not_before = now
        return [
            leaf
            for number, leaf in present.items()
            if now - self._since[number] >= self.longest_s or leaf.account in suspended
        ]

    def ages(self, leaves: Iterable[Leaf], now: float) -> dict[str, int]:
        """How old the oldest leaf of each account is, in whole seconds."""
        found: dict[str, int] = {}
        for leaf in leaves:
            age_s = int(now - self._since.get(leaf.id, now))
            found[leaf.account] = max(age_s, found.get(leaf.account, 0))
        return found


class LeafGuard:
    """The guard of one nats-control.

    :param refusal: why a zone may not call now, as for its calls: its leaf may not stay either.
    :param longest: the longest session there is.
    """

    def __init__(
        self,
        config: ControlConfig,
        registry: LiveRegistry,
        refusal: Callable[[ZoneId], BsfgError | None] = lambda _zone: None,
        longest: timedelta = SESSION_VALIDITY,
    ) -> None:
        login = Credentials(SYSTEM_USER, load_password(config.secrets))
        self.wire = NatsWire(config.endpoint.host, config.endpoint.port, login, name="bsfg-leaf-guard")
        self.problem: BsfgError | None = None
        self.ages: Mapping[str, int] = {}
        """How old each account's leaf is, seconds; accounts without one are missing."""
        self.kicked = 0
        self._path, self._registry, self._refusal = config.authorities, registry, refusal
        self._book = LeafBook(longest.total_seconds())
        self._trusted: dict[ZoneId, set[bytes]] = {}
        self._suspended: set[str] = set()
        self._loaded = b""

    async def run(self) -> None:
        """Guard until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.wire.run)
            while True:
                changed = self._registry.changed.next()
                try:
                    await self._look()
                    self.problem = None
                except (UnavailableError, OSError) as error:
                    self._note(error)
                with trio.move_on_after(LOOK_EVERY_S):
                    await changed.wait()

    def age_of(self, zone: ZoneId) -> int | None:
        """How old a zone's leaf connection is, in seconds; ``None``: it has none."""
        return self.ages.get(zone_account(zone))

    async def _look(self) -> None:
        registry, failed = self._registry.current, None
        if registry is not None:
            trusted = registry.trusted_of(zone for zone in registry.device_cas if self._refusal(zone) is None)
            self._suspend(trusted)
            try:
                await self._load(trusted)
            except UnavailableError as error:  # until it works, those who come back are kicked again
                failed = error
        server, leaves = _parse(await self.wire.request_json("$SYS.REQ.SERVER.PING.LEAFZ"))
        if server != self._book.server:
            varz = await self.wire.request_json(f"$SYS.REQ.SERVER.{server}.VARZ")
            self._book.begin(server, _uptime_s(varz), trio.current_time())
        now = trio.current_time()
        for leaf in self._book.step(leaves, self._suspended, now):
            _log.warning("leaf of %s is ended; it is welcome with a certificate that is good now", leaf.account)
            await self.wire.request_json(f"$SYS.REQ.SERVER.{server}.KICK", {"cid": leaf.id})
            self.kicked += 1
        self.ages = self._book.ages(leaves, now)
        if failed is not None:
            raise failed
        self._suspended.clear()

    def _suspend(self, trusted: Mapping[ZoneId, Sequence[x509.Certificate]]) -> None:
        """Whose device CAs are fewer than before: their leaves may be of a box that is not trusted any more."""
        present = {zone: {certificate_der(one) for one in found} for zone, found in trusted.items()}
        for zone, former in self._trusted.items():
            if former - present.get(zone, set()):
                self._suspended.add(zone_account(zone))
        self._trusted = present

    async def _load(self, trusted: Mapping[ZoneId, Sequence[x509.Certificate]]) -> None:
        """Write the roots of the leaf listener, and have the broker read them."""
        pem = authorities_pem(chain.from_iterable(trusted.values()), self._loaded)
        if pem == self._loaded:
            return
        await trio.to_thread.run_sync(_replace, self._path, pem)
        server = _server(await self.wire.request_json("$SYS.REQ.SERVER.PING.VARZ"))
        error = (await self.wire.request_json(f"$SYS.REQ.SERVER.{server}.RELOAD")).get("error")
        if error:
            raise UnavailableError(Reason.BROKER_REFUSED, f"reload: {str(error)[:256]}")
        self._loaded = pem

    def _note(self, error: UnavailableError | OSError) -> None:
        problem = error if isinstance(error, BsfgError) else UnavailableError(Reason.BROKER_REFUSED, str(error))
        if str(problem) != str(self.problem):
            _log.warning("leaf guard: %s", problem)
        self.problem = problem


def authorities_pem(trusted: Iterable[x509.Certificate], former: bytes = b"") -> bytes:
    """The device CAs that a leaf listener accepts, as :meth:`Registry.trusted` has them.

    nats-server refuses an empty file. Where nobody is trusted, the file holds a CA whose key nobody has.

    :param former: what the file held before; kept when it is such a CA already.
    """
    pem = b"".join(sorted(map(certificate_pem, trusted)))
    if pem:
        return pem
    return former if former.startswith(_NOBODY_LINE) else _NOBODY_LINE + _nobody()


_NOBODY_LINE: Final = b"# nobody: the key of this CA was thrown away\n"


def _nobody() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=3650))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    return certificate_pem(builder.sign(key, hashes.SHA256()))


def _replace(path: Path, pem: bytes) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    write_atomically(path, pem, PUBLIC)


def _server(answer: Mapping[str, Any]) -> str:
    """The id of the broker that answered; it stands in the subjects of further questions."""
    server = answer.get("server")
    if not isinstance(server, dict) or not isinstance(server.get("id"), str) or not server["id"].isalnum():
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, "the broker's answer does not say who it is")
    return str(server["id"])


def _parse(answer: Mapping[str, Any]) -> tuple[str, list[Leaf]]:
    try:
        leaves = [Leaf(int(leaf["id"]), str(leaf["account"])) for leaf in answer["data"].get("leafs") or ()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"leaves: {error!r}") from error
    return _server(answer), leaves


def _uptime_s(answer: Mapping[str, Any]) -> float:
    try:
        start, now = (datetime.fromisoformat(answer["data"][name]) for name in ("start", "now"))
        return (now - start).total_seconds()
    except (KeyError, TypeError, ValueError) as error:
        raise UnavailableError(Reason.BROKER_UNAVAILABLE, f"uptime: {error!r}") from error


def load_password(path: Path) -> str:
    """The password of ``sys`` in a JSON file. :raises RefusedError: ``bad_input`` naming the file."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        password = values["sys"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: the password of 'sys': {error!r}") from error
    if not isinstance(password, str) or not password:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: the password of 'sys' is missing")
    return password
