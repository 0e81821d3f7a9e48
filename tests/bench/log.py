# SPDX-License-Identifier: Apache-2.0
"""What a stream holds, asked over a plain connection: how many facts, and which, in order."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from appliance.factlog.natslogin import Credentials, CredentialsFile, Login
from appliance.factlog.natsproto import publish
from appliance.factlog.natswire import NatsWire
from tests.bench.facts import add_to_digest
from tests.bench.failure import BenchError

FACTS: Final = "facts.>"
_BATCH: Final = 2000
_CONNECT_S: Final = 10.0


def login(how: Mapping[str, str]) -> Login:
    """How to come in, from a job: ``user`` and ``password``, or ``credentials``, a file."""
    return CredentialsFile(Path(how["credentials"])) if "credentials" in how else Credentials(**how)


@asynccontextmanager
async def connected(host: str, port: int, how: Mapping[str, str]) -> AsyncIterator[NatsWire]:
    """A connection to a broker as the user that may do everything with its streams."""
    wire = NatsWire(host, port, login(how), name="bench")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wire.run)
        with trio.fail_after(_CONNECT_S):
            await wire.wait_connected()
        yield wire
        nursery.cancel_scope.cancel()


async def request(wire: NatsWire, subject: str, document: object = None) -> dict[str, Any]:
    """A JetStream request. :raises BenchError: it was refused."""
    answer = await wire.request_json(subject, document)
    if "error" in answer:
        raise BenchError(f"{subject}: {answer['error'].get('description')}")
    return answer


async def count_facts(wire: NatsWire, stream: str) -> int:
    """How many facts a stream holds; markers do not count."""
    answer = await request(wire, f"$JS.API.STREAM.INFO.{stream}", {"subjects_filter": FACTS})
    return sum((answer["state"].get("subjects") or {}).values())


async def stream_like(wire: NatsWire, prefix: str) -> str | None:
    """The name of the one stream that begins so, once it is there."""
    answer = await request(wire, "$JS.API.STREAM.NAMES")
    found = [name for name in answer.get("streams") or [] if name.startswith(prefix)]
    return found[0] if found else None


async def digest_of(wire: NatsWire, stream: str, count: int) -> str:
    """The digest over the first ``count`` facts of a stream, in stream order (see :func:`tests.bench.facts.digest`)."""
    name = f"bench-{secrets.token_hex(4)}"
    config = {"name": name, "ack_policy": "none", "mem_storage": True, "filter_subject": FACTS, "num_replicas": 1}
    await request(wire, f"$JS.API.CONSUMER.CREATE.{stream}.{name}.{FACTS}", {"stream_name": stream, "config": config})
    total, left = hashlib.sha256(), count
    while left:
        messages = await _next(wire, f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", min(left, _BATCH))
        if not messages:
            raise BenchError(f"{stream}: {left} of {count} facts cannot be read")
        add_to_digest(total, messages)
        left -= len(messages)
    await request(wire, f"$JS.API.CONSUMER.DELETE.{stream}.{name}")
    return total.hexdigest()


async def _next(wire: NatsWire, subject: str, wanted: int) -> list[bytes]:
    order = json.dumps({"batch": wanted, "no_wait": True}).encode()

    def frames(reply: str) -> bytes:
        return publish(subject, order, reply=reply)

    answers = await wire.collect(frames, lambda got: len(got) >= wanted or got[-1].status != 0)
    return [answer.payload for answer in answers if not answer.status]
