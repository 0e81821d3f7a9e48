# SPDX-License-Identifier: Apache-2.0
"""The alternative: two JetStream servers joined by a leaf connection, the hub mirroring the plant's stream.

Set up as well as it can be: the same server, the same durability (``sync_interval: always``), the same certificates
(TLS 1.3, both sides, handshake first), no compression, no permissions to check, nothing between stream and mirror.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from appliance.boundary.names import ZoneId, identity_of, store_stream
from appliance.brokers.binary import BrokerBinary
from appliance.brokers.config import Limits, Local, common, user, write_config
from appliance.brokers.control import HubAddress, TlsFiles
from appliance.brokers.process import BrokerProcess
from appliance.brokers.syntax import Value, render
from appliance.dev.environment import choose_ports
from appliance.dev.layout import ENTERPRISE, HOST, PLANT, ZONES
from appliance.factlog.natsproto import Delivery, header_block, publish
from appliance.factlog.natswire import NatsWire
from appliance.keys.devca import ensure_pki
from appliance.keys.software import PkiFolder
from tests.bench.facts import CATEGORY, Stock
from tests.bench.failure import BenchError
from tests.bench.log import connected, request

STREAM: Final = store_stream(CATEGORY)
MIRROR: Final = "MIRROR"
_ACCOUNT: Final = "FACTS"
_LIMITS: Final = Limits(max_file_store=16 * 1024**3)
_LINK_S: Final = 15.0
_BATCH: Final = 1000


class NativePair:
    """A plant's leaf and the hub it dials, in a folder of its own."""

    def __init__(self, root: Path, binary: BrokerBinary) -> None:
        self._root = root
        self._binary = binary
        self.agent_password = secrets.token_urlsafe(24)
        self.login = {"user": "agent", "password": self.agent_password}
        leaf, hub, self._leaf_listener = list(choose_ports().values())[:3]
        self.ports = {PLANT: leaf, ENTERPRISE: hub}
        root.mkdir()
        ensure_pki(root / "ca", {zone: root / zone / "pki" for zone in ZONES})
        write_config(root / PLANT / "nats.conf", self._leaf())
        write_config(root / ENTERPRISE / "nats.conf", self._hub())
        self._brokers: dict[ZoneId, BrokerProcess] = {}

    def _store(self, zone: ZoneId) -> Path:
        return self._root / zone / "store"

    def pids(self) -> dict[str, int]:
        """What runs."""
        named = {("source" if zone == PLANT else "target") + " nats": b.pid for zone, b in self._brokers.items()}
        return {name: pid for name, pid in named.items() if pid is not None}

    async def start(self, zone: ZoneId) -> None:
        """Start one of the two, and return when it serves."""
        listen = Local(HOST, self.ports[zone])
        folder = self._root / zone
        broker = BrokerProcess(self._binary, folder / "nats.conf", folder / "nats.log", listen)
        await broker.start()
        self._brokers[zone] = broker

    async def stop(self) -> None:
        """End both."""
        with trio.CancelScope(shield=True):
            for broker in self._brokers.values():
                await broker.stop()
            self._brokers.clear()

    async def fill(self, stock: Stock) -> None:
        """Put facts into the plant's stream, durably; not measured. The plant's server must run."""
        async with connected(HOST, self.ports[PLANT], self.login) as wire:
            await create_stream(wire)
            for begin in range(0, len(stock), _BATCH):
                subjects, payloads = stock.subjects[begin : begin + _BATCH], stock.payloads[begin : begin + _BATCH]
                answers = await wire.exchange(_batch(list(subjects), list(payloads)), lambda got: True)
                if b'"error"' in answers[0].payload:
                    raise BenchError(f"filling: {answers[0].payload.decode(errors='replace')}")

    async def linked(self, wire: NatsWire) -> None:
        """Wait until the hub reaches the plant's JetStream over the leaf connection."""
        end = trio.current_time() + _LINK_S
        while trio.current_time() < end:
            if (await _ask(wire, f"$JS.{PLANT}.API.INFO")).status != 503:
                return
            await trio.sleep(0.05)
        raise BenchError("the leaf connection did not come up")

    async def mirror(self, wire: NatsWire) -> None:
        """Let the hub mirror the plant's stream from its beginning; it starts at once."""
        document = {
            "name": MIRROR,
            "storage": "file",
            "num_replicas": 1,
            "mirror": {"name": STREAM, "external": {"api": f"$JS.{PLANT}.API"}},
        }
        await request(wire, f"$JS.API.STREAM.CREATE.{MIRROR}", document)

    def empty(self) -> None:
        """Forget all facts of both."""
        for zone in ZONES:
            shutil.rmtree(self._store(zone), ignore_errors=True)

    def put_aside(self, folder: Path) -> None:
        """Move the plant's facts to a folder."""
        self._store(PLANT).rename(folder)

    def put_back(self, folder: Path) -> None:
        """Begin with a copy of them and an empty hub, written to disk before anything is measured."""
        self.empty()
        shutil.copytree(folder, self._store(PLANT))
        os.sync()

    # -- configuration -------------------------------------------------------------------------------------------------

    def _tls(self, zone: ZoneId) -> dict[str, Value]:
        pki = PkiFolder(self._root / zone / "pki")
        return TlsFiles(pki.session, pki.hub_ca).block()

    def _base(self, zone: ZoneId) -> dict[str, Value]:
        listen = Local(HOST, self.ports[zone])
        return common(f"{zone}-native", listen, self._store(zone), _LIMITS, domain=zone)

    def _leaf(self) -> str:
        document = self._base(PLANT)
        remote: Value = {
            "urls": HubAddress(ENTERPRISE, HOST, self._leaf_listener).urls(),
            "no_randomize": True,
            "account": _ACCOUNT,
            "compression": "off",
            "tls": self._tls(PLANT),
        }
        document["leafnodes"] = {"reconnect": "1s", "remotes": [remote]}
        document["accounts"] = self._accounts([])
        return render("JetStream with a leaf connection, for comparison.", document)

    def _hub(self) -> str:
        document = self._base(ENTERPRISE)
        document["leafnodes"] = {
            "listen": f"{HOST}:{self._leaf_listener}",
            "no_advertise": True,
            "compression": "off",
            "tls": {**self._tls(ENTERPRISE), "verify_and_map": True},
        }
        leaf: Value = {"user": identity_of(PLANT), "allowed_connection_types": ["LEAFNODE"]}
        document["accounts"] = self._accounts([leaf])
        return render("JetStream that mirrors over a leaf connection, for comparison.", document)

    def _accounts(self, users: list[Value]) -> Value:
        return {
            _ACCOUNT: {"jetstream": "enabled", "users": [user("agent", self.agent_password), *users]},
            "SYS": {},
        }


async def create_stream(wire: NatsWire) -> None:
    """The plant's stream of a zone's own facts, as anybody would make it."""
    document: dict[str, Any] = {
        "name": STREAM,
        "subjects": [f"facts.{CATEGORY}.{PLANT}.>"],
        "storage": "file",
        "num_replicas": 1,
        "allow_atomic": True,
    }
    await request(wire, f"$JS.API.STREAM.CREATE.{STREAM}", document)


def _batch(subjects: list[str], payloads: list[bytes]) -> Callable[[str], bytes]:
    batch, last = secrets.token_hex(8), len(subjects) - 1

    def frames(reply: str) -> bytes:
        parts = []
        for index, (subject, payload) in enumerate(zip(subjects, payloads, strict=True)):
            control = {"Nats-Batch-Id": batch, "Nats-Batch-Sequence": str(index + 1)}
            if index == last:
                control["Nats-Batch-Commit"] = "1"
            header = header_block(control)
            parts.append(publish(subject, payload, reply=reply if index == last else "", header=header))
        return b"".join(parts)

    return frames


async def _ask(wire: NatsWire, subject: str) -> Delivery:
    answers = await wire.exchange(lambda reply: publish(subject, b"", reply=reply), lambda got: True)
    return answers[0]
