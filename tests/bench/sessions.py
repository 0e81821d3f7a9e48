# SPDX-License-Identifier: Apache-2.0
"""What keys in a TPM cost: issuing sessions, renewing them, the latch; and what their handshakes cost (nothing more).

The keeper's own code runs in this process, on a real software TPM. A software TPM answers in a millisecond or less; so
each way is also measured behind a relay that lets every command wait, which **simulates** a slow TPM.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import trio

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId, identity_of, parse_zone
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import (
    Session,
    certificate_pem,
    new_device_ca,
    new_hub_ca,
    new_session,
)
from appliance.keys.files import PRIVATE, PUBLIC, write_atomically
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.sessions import write_session
from appliance.keys.registry import LiveRegistry
from appliance.keys.tpm.public import sha256
from appliance.peer.identity import prove_identity
from appliance.peer.tls import client_credential, server_credential
from tests.bench.boxes import BenchBox, OpenBox
from tests.bench.failure import BenchError

SLOW_S: Final = 0.1
"""What the relay adds to every TPM command."""
SOFTWARE, FAST, SLOW = "software key", "swtpm", f"swtpm, +{SLOW_S * 1000:.0f} ms a command (simulated)"
_HUB: Final = parse_zone("enterprise")
_LEAST: Final = 3
"""Sessions that are issued in any case."""
_EVIDENCE: Final = sha256(b"benchmark")
_TURN: Final = 10
"""Handshakes of one way before it is the other's turn."""


@dataclass(frozen=True, slots=True)
class Issued:
    """One trial: the time of each renewal (new key, signature of the boundary key, certificate, file), in ms.

    :param commands: TPM commands for one session. :param latch_ms: until PCR 14 was extended, the last step; after the
        first one no session can be had. :param release_ms: request, both operators' signatures, and import.
    """

    way: str
    renewal_ms: tuple[float, ...]
    commands: float
    latch_ms: float | None = None
    release_ms: float | None = None

    @property
    def rate(self) -> float:
        """Sessions a second."""
        return 1000 * len(self.renewal_ms) / sum(self.renewal_ms)


@dataclass(frozen=True, slots=True)
class Handshakes:
    """One trial: full TLS 1.3 handshakes, both sides in this one process, each side proving the other as peers do."""

    way: str
    count: int
    seconds: float

    @property
    def rate(self) -> float:
        """Handshakes a second."""
        return self.count / self.seconds


class SessionBench:
    """The trials, in a folder. :meth:`start` first, :meth:`stop` in any case."""

    def __init__(self, root: Path, seconds: float) -> None:
        self._root, self._seconds = root / "sessions", seconds
        self._hub = new_hub_ca(datetime.now(UTC))
        self._box = BenchBox(self._root / "box", self._hub, SLOW_S)
        self._device = new_device_ca(self._hub, self._box.zone, datetime.now(UTC))
        self.issuing: dict[str, Callable[[], Awaitable[Issued]]] = {
            SOFTWARE: partial(trio.to_thread.run_sync, self._issue_software),
            FAST: partial(trio.to_thread.run_sync, partial(self._issue_tpm, FAST, slow=False)),
            SLOW: partial(trio.to_thread.run_sync, partial(self._issue_tpm, SLOW, slow=True)),
        }

    async def start(self) -> float:
        """Make and start the TPM; TPM commands for one session of a box that was never in quarantine.

        All trials are of a box that was released, which takes more commands: so rounds are alike.
        """
        self._root.mkdir()
        await self._box.start()
        return await trio.to_thread.run_sync(self._first_quarantine)

    async def stop(self) -> None:
        """End what runs."""
        await self._box.stop()

    def _first_quarantine(self) -> float:
        with self._box.opened(slow=False) as opened:
            opened.issue()
            before = opened.commands
            opened.issue()
            commands = opened.commands - before
            self._latched(opened, Issued(FAST, (), 0))
            return float(commands)

    # -- sessions -----------------------------------------------------------------------------------------------------

    def _issue_software(self) -> Issued:
        return Issued(SOFTWARE, self._renew(lambda: new_session(self._device, self._box.zone, datetime.now(UTC))), 0)

    def _issue_tpm(self, way: str, *, slow: bool) -> Issued:
        with self._box.opened(slow=slow) as opened:
            opened.issue()  # the image's signature is verified once per image, and kept as a ticket
            before = opened.commands
            times = self._renew(opened.issue)
            issued = Issued(way, times, (opened.commands - before) / len(times))
            return self._latched(opened, issued)

    def _renew(self, issue: Callable[[], Session]) -> tuple[float, ...]:
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < _LEAST or time.perf_counter() - began < self._seconds:
            started = time.perf_counter()
            write_session(self._root / "agent.pem", issue().pem(), None)
            times.append((time.perf_counter() - started) * 1000)
        return tuple(times)

    def _latched(self, opened: OpenBox, issued: Issued) -> Issued:
        """Latch, see that no session can be had, release, see that it can."""
        started = time.perf_counter()
        opened.box.latch(_EVIDENCE, None)
        latch_ms = (time.perf_counter() - started) * 1000
        try:
            opened.issue()
        except DeniedError as error:
            if error.reason is not Reason.KEY_LATCHED:
                raise
        else:
            raise BenchError("a latched key issued a session")
        started = time.perf_counter()
        opened.release(self._box.offline, _EVIDENCE)
        release_ms = (time.perf_counter() - started) * 1000
        opened.issue()
        return replace(issued, latch_ms=latch_ms, release_ms=release_ms)

    # -- handshakes ---------------------------------------------------------------------------------------------------

    async def handshakes(self) -> dict[str, Handshakes]:
        """Both ways for the same time, taking turns every few milliseconds."""
        return await trio.to_thread.run_sync(self._handshakes)

    def _handshakes(self) -> dict[str, Handshakes]:
        now = datetime.now(UTC)
        with self._box.opened(slow=False) as opened:
            pairs = {
                SOFTWARE: self._pair(SOFTWARE, new_session(self._device, self._box.zone, now)),
                FAST: self._pair(FAST, opened.issue()),
            }
        counts, seconds = dict.fromkeys(pairs, 0), dict.fromkeys(pairs, 0.0)
        while min(seconds.values()) < self._seconds:
            for way, pair in pairs.items():
                began = time.perf_counter()
                for _ in range(_TURN):
                    pair.shake()
                seconds[way] += time.perf_counter() - began
                counts[way] += _TURN
        return {way: Handshakes(way, counts[way], seconds[way]) for way in pairs}

    def _pair(self, way: str, session: Session) -> _Pair:
        """A peer with this session, and a hub that it calls."""
        plant, hub = self._box.zone, new_device_ca(self._hub, _HUB, datetime.now(UTC))
        folder = PkiFolder(self._root / way.replace(" ", "-"))
        folder.zones.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.hub_ca, certificate_pem(self._hub.certificate), PUBLIC)
        write_atomically(folder.zone(plant), certificate_pem(session.issuer), PUBLIC)
        write_atomically(folder.zone(_HUB), certificate_pem(hub.certificate), PUBLIC)
        caller, server = folder.path / "plant.pem", folder.path / "hub.pem"
        write_atomically(caller, session.pem(), PRIVATE)
        write_atomically(server, new_session(hub, _HUB, datetime.now(UTC)).pem(), PRIVATE)
        registry = LiveRegistry(folder)
        registry.refresh()
        contexts = (client_credential(caller, folder.hub_ca).context, server_credential(server, folder.hub_ca).context)
        return _Pair(*contexts, registry, (_HUB, plant))


@dataclass(frozen=True, slots=True)
class _Pair:
    """A caller and a server. :param zones: what the caller, and what the server, must find at the other end."""

    caller: ssl.SSLContext
    server: ssl.SSLContext
    registry: LiveRegistry
    zones: tuple[ZoneId, ZoneId]

    def shake(self) -> None:
        """A handshake, and the proof on both sides. :raises BenchError: it failed."""
        ends = handshake(self.caller, self.server, identity_of(self.zones[0]))
        for end, zone in zip(ends, self.zones, strict=True):
            _prove(end, self.registry, zone)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """One full handshake in memory. :raises BenchError: it does not come to an end."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    waiting = list(ends)
    for _ in range(10):
        for end in tuple(waiting):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(end)
        if not waiting:
            return ends
    raise BenchError("a handshake did not end")


def _prove(end: ssl.SSLObject, registry: LiveRegistry, zone: ZoneId) -> None:
    certificate = end.getpeercert(binary_form=True)
    if certificate is None or prove_identity(certificate, registry, time.time()).zone != zone:
        raise BenchError("a peer did not prove its zone")
