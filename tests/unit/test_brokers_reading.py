# SPDX-License-Identifier: Apache-2.0
"""What passes the readers' desk, and what does not, however it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.brokers.reading import MAX_REQUEST_BYTES, collide, consumer_request, streams_with, wanted_subject


def request(**config: Any) -> bytes:
    """A request for a consumer."""
    return json.dumps({"stream_name": "FACTS_AUDIT", "config": config, "action": "create"}).encode()


@pytest.mark.parametrize(
    "config",
    [
        {"durable_name": "screen", "ack_policy": "explicit", "filter_subject": "facts.audit.>"},
        {"name": "x", "deliver_policy": "by_start_sequence", "opt_start_seq": 7, "inactive_threshold": 5_000_000_000},
        {"deliver_subject": "_INBOX.uIHvYs0FlNVB8Fz1n4Q2yW.1", "flow_control": True, "idle_heartbeat": 5_000_000_000},
        {"deliver_subject": "_INBOX.abc", "deliver_group": "workers"},
        {"deliver_subject": None, "metadata": {"deliver_subject": "log.x"}, "filter_subjects": ["a", "b"]},
        {"deliver_subject": ""},
    ],
)
def test_what_stock_clients_ask_passes_unchanged(config: dict[str, Any]) -> None:
    """Pull, push and ordered consumers."""
    assert json.loads(consumer_request(request(**config))) == json.loads(request(**config))


@pytest.mark.parametrize(
    "deliver",
    [
        "log.facts.audit.plant-a.all.mes.forged",
        "facts.audit.plant-a.all.mes.forged",
        "dead.x",
        "$JS.API.STREAM.DELETE.FACTS_AUDIT",
        "_BSFG.0123456789abcdef012345.1",
        "_INBOX",
        "_INBOX.",
        "_INBOX..x",
        "_INBOX.>",
        "_INBOX.*",
        "_INBOX.a b",
        "_INBOX.a\r\nPUB log.x 0",
        "_INBOXES.a",
        "x_INBOX.a",
        "_INBOX.a.b.c.d.e",
        " _INBOX.a",
        "_INBOX.a\n",
        7,
        ["_INBOX.a"],
        {"a": 1},
        True,
        False,
        0,
    ],
)
def test_a_consumer_delivers_to_an_inbox_or_nowhere(deliver: Any) -> None:
    """Anything else could be a log."""
    with pytest.raises(RefusedError) as caught:
        consumer_request(request(deliver_subject=deliver))
    assert caught.value.reason == Reason.BAD_REQUEST


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", Reason.MALFORMED_JSON),
        (b"{", Reason.MALFORMED_JSON),
        (b"\xff", Reason.MALFORMED_JSON),
        (b'{"config":{}} {}', Reason.MALFORMED_JSON),
        (b'{"config":{"ack_wait":NaN}}', Reason.MALFORMED_JSON),
        (b"[" * 60_000, Reason.MALFORMED_JSON),
        (b"[]", Reason.WRONG_TYPE),
        (b'"text"', Reason.WRONG_TYPE),
        (b"{}", Reason.WRONG_TYPE),
        (b'{"config":[]}', Reason.WRONG_TYPE),
        # The broker takes field names in any case, and of a repeated one the last.
        (b'{"config":{"Deliver_Subject":"log.x"}}', Reason.UNKNOWN_FIELD),
        (b'{"config":{"DELIVER_SUBJECT":"log.x"}}', Reason.UNKNOWN_FIELD),
        (b'{"config":{},"Config":{"deliver_subject":"log.x"}}', Reason.UNKNOWN_FIELD),
        ('{"config":{"deliver_\u017fubject":"log.x"}}'.encode(), Reason.UNKNOWN_FIELD),
        (b'{"config":{"deliver_subject":"_INBOX.a","deliver_subject":"log.x"}}', Reason.MALFORMED_JSON),
        (b'{"config":{"deliver_subject":"_INBOX.a","deliver_\\u0073ubject":"log.x"}}', Reason.MALFORMED_JSON),
        (b'{"config":{},"config":{"deliver_subject":"log.x"}}', Reason.MALFORMED_JSON),
        (b'{"config":{"direct":true}}', Reason.UNKNOWN_FIELD),
        (b'{"config":{}}' + b" " * MAX_REQUEST_BYTES, Reason.TOO_LARGE),
    ],
)
def test_what_the_broker_could_read_otherwise_is_refused(payload: bytes, reason: Reason) -> None:
    """Only what is understood passes."""
    with pytest.raises(RefusedError) as caught:
        consumer_request(payload)
    assert caught.value.reason == reason


NAMES = st.sampled_from(["name", "deliver_subject", "Deliver_Subject", "filter_subject", "ack_policy", "config"])
TEXTS = st.text() | st.sampled_from(["_INBOX.a", "_INBOX.>", "log.x", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda v: st.dictionaries(NAMES, v), max_leaves=5
)


@given(VALUES | st.fixed_dictionaries({"config": st.dictionaries(NAMES, VALUES)}))
def test_nothing_passes_that_delivers_elsewhere(value: object) -> None:
    """Whatever JSON comes in, it is refused, or delivers to an inbox or nowhere."""
    try:
        passed = consumer_request(json.dumps(value).encode())
    except RefusedError:
        return
    fields = {name.lower(): content for name, content in json.loads(passed)["config"].items()}
    assert fields.get("deliver_subject") in (None, "", "_INBOX.a")


@pytest.mark.parametrize(
    ("payload", "subject"),
    [
        (b"", None),
        (b"{}", None),
        (b'{"offset":0}', None),
        (b'{"subject":""}', None),
        (b'{"subject":"facts.>"}', "facts.>"),
    ],
)
def test_the_wanted_subject_is_read(payload: bytes, subject: str | None) -> None:
    """It may be left out."""
    assert wanted_subject(payload) == subject


def test_a_subject_that_is_no_text_is_refused() -> None:
    """And so is what is no JSON."""
    for payload in (b'{"subject":7}', b"x", b"[]"):
        with pytest.raises(RefusedError):
            wanted_subject(payload)


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        ("facts.>", "facts.audit.>", True),
        ("facts.audit.>", "facts.operational.>", False),
        ("facts.*.plant-a.>", "facts.audit.plant-a.all.x", True),
        ("facts.*.plant-a.>", "facts.audit.plant-b.>", False),
        ("facts.audit", "facts.audit", True),
        ("facts.audit", "facts.audit.x", False),
        ("facts.audit.>", "facts.audit", False),
        ("*.*", "a.b", True),
        ("*.*", "a.b.c", False),
        (">", "a", True),
        ("a.*.c", "*.b.*", True),
    ],
)
def test_subjects_collide_when_they_share_a_subject(one: str, other: str, answer: bool) -> None:
    """In both directions."""
    assert collide(one, other) is answer
    assert collide(other, one) is answer


def test_streams_are_found_by_what_they_keep() -> None:
    """Not by what they listen on, and markers and dead letters are none of it."""
    streams = [
        ("FACTS_AUDIT", ["log.facts.audit.plant-a.>"]),
        (
            "FACTS_AUDIT_FROM_ENTERPRISE_00112233",
            ["log.from.enterprise.0011.facts.audit.>", "log.from.e.0011.gap.audit"],
        ),
        ("FACTS_BATCH", ["log.facts.batch.plant-a.>"]),
        ("DEAD_LETTERS", ["dead.>"]),
    ]
    assert streams_with("facts.audit.>", streams) == ["FACTS_AUDIT", "FACTS_AUDIT_FROM_ENTERPRISE_00112233"]
    assert streams_with("facts.audit.enterprise.>", streams) == ["FACTS_AUDIT_FROM_ENTERPRISE_00112233"]
    assert streams_with("facts.*.plant-a.>", streams) == [name for name, _ in streams[:3]]
    assert streams_with("log.facts.audit.>", streams) == []
    assert streams_with("dead.>", streams) == []
