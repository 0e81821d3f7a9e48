# SPDX-License-Identifier: Apache-2.0
"""Two real zones with history, to be audited and tampered with.

They are made once: facts in both directions, receipts with countersignatures, a log whose oldest facts were dropped,
facts that nobody confirmed yet. Each test works on a copy.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from click.testing import CliRunner

from appliance.boundary.crossing import Crossing
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.policy import CategoryPolicy, WhenFull
from appliance.boundary.producing import ProducedFact, Producer
from appliance.boundary.records import StoredRecord
from appliance.brokers.config import AGENT_USER, Local
from appliance.cli.main import cli
from appliance.dev.environment import FACTS_PORT, Environment, port_is_free
from appliance.dev.layout import ENTERPRISE, HOST, PLANT
from appliance.dev.provision import provision
from appliance.factlog.jetstream import JetStreamLog
from appliance.factlog.natslogin import CredentialsFile
from appliance.factlog.natsproto import header_block, publish
from appliance.factlog.natswire import NatsWire
from appliance.factlog.streams import StreamAdmin
from appliance.node.zone import ZoneRuntime
from tests.produced import payload, subject
from tests.wires import island_to, wire_to
from tests.zones import AUDIT, TELEMETRY, running_broker, running_zone, two_zones

MIB = 1024 * 1024
CATEGORIES = {
    AUDIT: CategoryPolicy(max_bytes=16 * MIB),
    TELEMETRY: CategoryPolicy(WhenFull.DROP_OLDEST, max_bytes=MIB),
}
CONFIRMED, UNCONFIRMED = 120, 10
LAST = CONFIRMED + UNCONFIRMED
EMPTY = hashlib.sha256(b"{}").hexdigest()
SENSORS = Producer(ProducerId("sensors"))


def facts(zone: ZoneId, category: str, numbers: range, *, text: str = "") -> list[ProducedFact]:
    """Facts of a zone; every seventh is for somebody else than the other zone."""
    found = []
    for number in numbers:
        to = "plant-b" if number % 7 == 0 else "all"
        where = subject(category, origin=zone, to=to, producer="sensors")
        content = payload(f"{category}-{number}", origin=zone, to=to, n=number, text=text)
        found.append(ProducedFact(where, content))
    return found


async def cross(origin: ZoneRuntime, reader: ZoneRuntime, category: Category) -> None:
    """Carry a category over until it is confirmed."""
    names = (origin.config.zone, reader.config.zone)
    crossing = Crossing("test", category, *names, origin.source, reader.sink, wait_ms=0)
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(crossing.run)
            while crossing.status.confirmed < origin.stores[category].end.offset - 1:  # noqa: ASYNC110 - it moves
                await trio.sleep(0.01)
            await trio.sleep(0.2)  # the countersignature goes back with a probe
            nursery.cancel_scope.cancel()


async def make_zones(folder: Path) -> Environment:
    """Two zones with history."""
    environment = two_zones(folder, CATEGORIES)
    async with (
        running_broker(environment, PLANT),
        running_broker(environment, ENTERPRISE),
        running_zone(environment, PLANT) as plant,
        running_zone(environment, ENTERPRISE) as hub,
    ):
        large = facts(PLANT, "telemetry", range(1, 81), text="x" * 60_000)
        for start in range(0, 80, 10):
            await plant.desk.append_facts(SENSORS, large[start : start + 10])
            if start == 30:  # what comes later drops facts that nobody confirmed
                await cross(plant, hub, TELEMETRY)
        half = CONFIRMED // 2
        for numbers in (range(1, half + 1), range(half + 1, CONFIRMED + 1)):  # a receipt for each
            for origin, reader in ((plant, hub), (hub, plant)):
                await origin.desk.append_facts(SENSORS, facts(origin.config.zone, "audit", numbers))
                await cross(origin, reader, AUDIT)
        for origin in (plant, hub):
            late = facts(origin.config.zone, "audit", range(CONFIRMED + 1, CONFIRMED + UNCONFIRMED + 1))
            await origin.desk.append_facts(SENSORS, late)
    return environment


OWN, OTHER = "plant-a: ", "enterprise: "


def copy_of(made: Environment, folder: Path) -> Environment:
    """A copy of an environment that does not run."""
    shutil.copytree(made.layout.root, folder)
    copy = Environment.load(folder)
    provision(copy)
    return copy


@dataclass
class Verdict:
    """What the command said about a zone."""

    exit_code: int
    logs: list[dict[str, Any]]

    @property
    def findings(self) -> list[str]:
        """All of them."""
        return [f"{log['origin']}: {finding}" for log in self.logs for finding in log["findings"]]

    def of(self, origin: str, category: str = "audit") -> dict[str, Any]:
        """One log."""
        (log,) = [log for log in self.logs if (log["origin"], log["category"]) == (origin, category)]
        return log


def verify(environment: Environment, zone: ZoneId = PLANT) -> Verdict:
    """Run the command on one zone, whose broker does not run."""
    arguments = ["audit", "verify", "--dir", str(environment.layout.root), "--zone", zone, "--output", "json"]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert port_is_free(environment.ports[FACTS_PORT[zone]])  # the broker it started has ended
    return Verdict(result.exit_code, json.loads(result.stdout)[zone])


def database(environment: Environment, zone: ZoneId) -> sqlite3.Connection:
    """The zone's ledger."""
    return sqlite3.connect(environment.layout.zone(zone).state / "ledger.db", isolation_level=None)


def tamper(environment: Environment, zone: ZoneId, *statements: str) -> None:
    """Change the ledger; ``{own}`` and ``{other}`` are the numbers of the zone's logs of audit facts."""
    with closing(database(environment, zone)) as connection:
        logs = dict(connection.execute("SELECT origin, id FROM logs WHERE category = 'audit'").fetchall())
        other = ENTERPRISE if zone == PLANT else PLANT
        values = {"own": logs[zone], "other": logs[other], "last": LAST, "confirmed": CONFIRMED, "empty": EMPTY}
        for statement in statements:
            assert connection.execute(statement.format(**values)).rowcount > 0


def dump(environment: Environment, zone: ZoneId) -> list[str]:
    """Everything in the ledger."""
    with closing(database(environment, zone)) as connection:
        return list(connection.iterdump())


@dataclass
class Access:
    """A zone's broker, with everything that its agent's password can do."""

    wire: NatsWire
    admin: StreamAdmin

    async def ask(self, operation: str, document: object = None) -> dict[str, Any]:
        """A request of the JetStream API that succeeds."""
        answer = await self.wire.request_json(f"$JS.API.{operation}", document)
        assert "error" not in answer
        return answer

    async def rewrite(self, stream: str, edit: Callable[[list[StoredRecord]], Sequence[StoredRecord]]) -> None:
        """Delete a stream and make it anew with other records, each at its sequence."""
        config = (await self.ask(f"STREAM.INFO.{stream}"))["config"]
        log = JetStreamLog(self.wire, self.admin, stream, {}, lambda record: "", lambda zone: [])
        records: list[StoredRecord] = []
        while more := await log.read(records[-1].seq if records else 0, 1000, 4 * MIB):
            records += more
        last = (await log.state()).last
        await self.ask(f"STREAM.DELETE.{stream}")
        await self.ask(f"STREAM.CREATE.{stream}", {**config, "deny_delete": False})
        prefix = config["subject_transform"]["src"].removesuffix("facts.>")
        kept = {record.seq: record for record in edit(records)}
        holes = []
        for seq in range(1, max([last, *kept]) + 1):
            record = kept.get(seq)
            if record is None:
                holes.append(seq)
                record = StoredRecord(seq, records[0].subject, b"", {})
            await self.put(prefix if record.subject.startswith("facts.") else "", record)
        for seq in holes:
            await self.ask(f"STREAM.MSG.DELETE.{stream}", {"seq": seq})

    async def put(self, prefix: str, record: StoredRecord) -> None:
        """Publish a record as the agent would."""
        headers = {name: value for name, value in record.headers.items() if not name.startswith("Nats-")}
        frame = {"payload": record.payload, "header": header_block(headers)}
        answer = await self.wire.exchange(
            lambda reply: publish(prefix + record.subject, frame["payload"], reply=reply, header=frame["header"]),
            lambda got: True,
        )
        assert json.loads(answer[0].payload)["seq"] == record.seq


def break_in(environment: Environment, work: Callable[[Access], Awaitable[None]], zone: ZoneId = PLANT) -> None:
    """Run the zone's broker alone and do something to it."""

    async def inside() -> None:
        listen = Local(HOST, environment.ports[FACTS_PORT[zone]])
        agent = CredentialsFile(environment.layout.zone(zone).user(AGENT_USER))
        async with running_broker(environment, zone), wire_to(listen, agent) as wire:
            with island_to(listen, agent) as island:
                await work(Access(wire, StreamAdmin(island)))

    trio.run(inside)


def received_stream(environment: Environment, zone: ZoneId = PLANT) -> str:
    """The name of the stream of audit facts received from the other zone."""
    other = ENTERPRISE if zone == PLANT else PLANT
    with closing(database(environment, zone)) as connection:
        query = "SELECT hex(substr(epoch, 1, 4)) FROM logs WHERE category = 'audit' AND origin = ?"
        (epoch,) = connection.execute(query, (other,)).fetchone()
    return f"FACTS_AUDIT_FROM_{other.upper().replace('-', '_')}_{epoch}"
