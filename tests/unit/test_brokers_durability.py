# SPDX-License-Identifier: Apache-2.0
"""The proof of durability: a broker that does not say so, in so many words, is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.brokers.durability import BrokerReport, parse_jsz, require_durable

ANSWER: dict[str, Any] = {
    # nats-server 2.15.1's own answer, shortened
    "server": {"name": "plant-a-facts", "host": "127.0.0.1", "id": "NCEVTL", "ver": "2.15.1", "jetstream": True},
    "data": {
        "memory": 0,
        "storage": 312,
        "api": {"level": 5, "total": 10, "errors": 1},
        "config": {
            "max_memory": 10485760,
            "max_storage": 104857600,
            "store_dir": "/store/jetstream",
            "sync_interval": 120000000000,
            "sync_always": True,
            "compress_ok": True,
            "strict": True,
        },
        "streams": 2,
    },
}


def altered(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The answer with a change."""
    answer = json.loads(json.dumps(ANSWER))
    change(answer)
    return json.dumps(answer).encode()


def test_a_durable_broker_is_accepted() -> None:
    """And what it says is kept."""
    report = parse_jsz(json.dumps(ANSWER).encode())
    require_durable(report)
    assert report == BrokerReport(
        server_id="NCEVTL",
        server_name="plant-a-facts",
        version="2.15.1",
        jetstream=True,
        sync_always=True,
        sync_interval_s=120.0,
        store_dir="/store/jetstream",
        max_file_store=104857600,
        max_memory_store=10485760,
        domain="",
    )


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        (lambda a: a["data"]["config"].pop("sync_always"), Reason.BROKER_NOT_DURABLE, "every 120 s"),
        (lambda a: a["data"]["config"].update(sync_always=False), Reason.BROKER_NOT_DURABLE, "every 120 s"),
        (lambda a: a["data"]["config"].update(sync_always="yes"), Reason.BROKER_NOT_DURABLE, "every 120 s"),
        (lambda a: a["data"].update(disabled=True), Reason.BROKER_NOT_DURABLE, "without JetStream"),
        (lambda a: a["data"]["config"].pop("store_dir"), Reason.BROKER_NOT_DURABLE, "without JetStream"),
        (lambda a: a["server"].update(ver="2.14.2"), Reason.BROKER_TOO_OLD, "2.14.2"),
        (lambda a: a["server"].update(ver="2.12.12"), Reason.BROKER_TOO_OLD, "2.12.12"),
        (lambda a: a["server"].update(ver="unknown"), Reason.BROKER_TOO_OLD, "unknown"),
    ],
)
def test_what_is_not_proven_is_refused(change: Callable[[dict[str, Any]], object], reason: Reason, words: str) -> None:
    """A field that is left out is no proof."""
    with pytest.raises(UnavailableError) as caught:
        require_durable(parse_jsz(altered(change)))
    assert caught.value.reason == reason
    assert words in caught.value.detail


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b"\xff",
        b'{"server": {"name": "x", "id": "y", "ver": "2.15.1"}, "error": {"code": 500, "description": "no"}}',
        altered(lambda a: a["data"].update(config=None)),
        altered(lambda a: a["server"].pop("ver")),
        altered(lambda a: a["data"]["config"].update(max_storage="much")),
        altered(lambda a: a["data"]["config"].update(sync_interval=True)),
    ],
)
def test_an_answer_that_cannot_be_read_is_no_proof(answer: bytes) -> None:
    """And says so, with the beginning of the answer."""
    with pytest.raises(UnavailableError) as caught:
        parse_jsz(answer)
    assert caught.value.reason == Reason.BROKER_NOT_DURABLE
    assert "did not tell" in caught.value.detail
