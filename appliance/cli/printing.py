# SPDX-License-Identifier: Apache-2.0
"""The work of ``bsfg fact read``: stored facts as JSON lines, byte for byte, or as a table."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from appliance.boundary.names import Category, ZoneId
from appliance.cli.reading import FactReader, StoredFact
from appliance.cli.session import Patience, close, connect
from appliance.factlog.natslogin import NatsOptions

FOLLOW_S: Final = 0.25
"""Seconds between looks for new facts."""
_OBJECT_WIDTH: Final = 60


def jsonl(fact: StoredFact) -> bytes:
    """One fact as a line: the stored bytes as they are, with the offset put in front."""
    return b'{"offset":%d,' % fact.offset + fact.payload[1:] + b"\n"


def row(fact: StoredFact) -> bytes:
    """One fact for people."""
    document = json.loads(fact.payload)
    envelope, content = document["envelope"], document["fact"]
    try:
        moment = datetime.fromtimestamp(envelope["produced_at_unix_ms"] / 1000, UTC).isoformat(" ", "seconds")[:19]
    except (OverflowError, ValueError, OSError):  # so far away that no calendar reaches it
        moment = str(envelope["produced_at_unix_ms"])
    shown = json.dumps(content["object_json"], ensure_ascii=False)
    if len(shown) > _OBJECT_WIDTH:
        shown = shown[: _OBJECT_WIDTH - 1] + "…"
    category = fact.subject.split(".")[1]
    return f"{fact.offset:>8}  {category:<12}{moment}  {content['subject']}  {content['predicate']}  {shown}\n".encode()


HEADER: Final = f"{'offset':>8}  {'category':<12}{'produced (UTC)':<19}  subject  predicate  object\n".encode()


def print_facts(
    login: NatsOptions,
    zone: ZoneId,
    origin: ZoneId,
    categories: Sequence[Category],
    *,
    follow: bool,
    timeout: float,
    table: bool,
) -> None:
    """Print what a zone has of an origin; blocking; with ``follow`` for ever.

    :raises UnavailableError: the broker stayed away for ``timeout`` seconds.
    """
    output = sys.stdout.buffer
    form = row if table else jsonl

    async def run() -> None:
        patience = Patience(timeout)
        client = await connect(login, patience)
        try:
            reader = FactReader(client, zone, origin, categories)
            async with aclosing(reader.read(patience, follow=FOLLOW_S if follow else 0.0)) as batches:
                async for facts in batches:
                    output.write(b"".join(map(form, facts)))
                    output.flush()
        finally:
            await close(client)

    if table:
        output.write(HEADER)
        output.flush()
    asyncio.run(run())
