# SPDX-License-Identifier: Apache-2.0
"""The NATS protocol without I/O: pieces are read whole, what is malformed is refused, nothing is injected."""

from __future__ import annotations

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.factlog.natsproto import (
    MAX_CONTROL_LINE,
    MAX_MESSAGE,
    Delivery,
    Event,
    Info,
    Parser,
    Ping,
    Pong,
    ServerError,
    connect,
    header_block,
    publish,
    subscribe,
    unsubscribe,
)

INFO = b'INFO {"server_id":"N","version":"2.15.1","max_payload":1114112,"headers":true}\r\n'
HEADER = b"NATS/1.0\r\nBsfg-Id: a-1\r\nBsfg-Digest:00ff\r\n\r\n"


def hmsg(subject: str, sid: int, reply: str, header: bytes, payload: bytes) -> bytes:
    """An HMSG as nats-server writes it."""
    named = f"{subject} {sid} {reply}" if reply else f"{subject} {sid}"
    return b"HMSG %s %d %d\r\n%s%s\r\n" % (named.encode(), len(header), len(header) + len(payload), header, payload)


def msg(subject: str, sid: int, reply: str, payload: bytes) -> bytes:
    """A MSG as nats-server writes it."""
    named = f"{subject} {sid} {reply}" if reply else f"{subject} {sid}"
    return b"MSG %s %d\r\n%s\r\n" % (named.encode(), len(payload), payload)


STREAM = (
    INFO
    + b"PING\r\n+OK\r\n"
    + msg("a.b", 7, "", b"")
    + hmsg("facts.x", 2, "$JS.ACK.S.C.1.5.5.0.0", HEADER, b'{"text":"line\r\nPING\r\n"}')
    + b"PONG\r\n"
    + hmsg("_BSFG.x.1", 1, "", b"NATS/1.0 404 No Messages\r\n\r\n", b"")
    + b"-ERR 'Authorization Violation'\r\n"
    + msg("c", 9, "r.1", b"MSG c 9 1\r\n")
)
EVENTS: list[Event] = [
    Info("2.15.1", 1114112, True),
    Ping(),
    Delivery("a.b", 7, "", b"", b""),
    Delivery("facts.x", 2, "$JS.ACK.S.C.1.5.5.0.0", HEADER, b'{"text":"line\r\nPING\r\n"}'),
    Pong(),
    Delivery("_BSFG.x.1", 1, "", b"NATS/1.0 404 No Messages\r\n\r\n", b""),
    ServerError("Authorization Violation"),
    Delivery("c", 9, "r.1", b"", b"MSG c 9 1\r\n"),
]


def test_a_whole_buffer_is_read_in_one_pass() -> None:
    """Every kind of line, payloads that look like lines, and nothing is left over."""
    assert Parser().feed(STREAM) == EVENTS


def test_byte_by_byte_gives_the_same_events() -> None:
    """An event comes with its last byte, not before and not later."""
    parser = Parser()
    found: list[Event] = []
    for at in range(len(STREAM)):
        found += parser.feed(STREAM[at : at + 1])
    assert found == EVENTS


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_any_split_gives_the_same_events(cuts: list[int]) -> None:
    """Where TCP cuts is of no importance."""
    parser = Parser()
    edges = [0, *sorted(cuts), len(STREAM)]
    found = [event for start, end in pairwise(edges) for event in parser.feed(STREAM[start:end])]
    assert found == EVENTS


@given(
    st.lists(
        st.tuples(
            st.binary(max_size=200), st.booleans(), st.from_regex(r"[a-z]{1,8}(\.[a-z]{1,8}){0,3}", fullmatch=True)
        ),
        max_size=20,
    ),
    st.integers(1, 50),
)
def test_any_payloads_come_out_as_they_went_in(content: list[tuple[bytes, bool, str]], piece: int) -> None:
    """Payloads are bytes: line breaks and protocol words in them mean nothing."""
    wire = b"".join(hmsg(s, 3, "r", HEADER, p) if headed else msg(s, 3, "", p) for p, headed, s in content)
    parser = Parser()
    found = [event for at in range(0, len(wire), piece) for event in parser.feed(wire[at : at + piece])]
    assert found == [
        Delivery(subject, 3, "r" if headed else "", HEADER if headed else b"", payload)
        for payload, headed, subject in content
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 400 Bad Request",
        b"MSG",
        b"MSG a 1",
        b"MSG a",
        b"MSG a one 5",
        b"MSG a 1 five",
        b"MSG a 1 -5",
        b"MSG a 1 -15",  # would be read again and again
        b"MSG a 1 +12",  # int() would take these, and the payload would fit
        b"MSG a 1 1_2",
        b"MSG a +1 12",
        b"HMSG a 1 +2 12",
        b"MSG a 1 r x 5",
        b"MSG \xff\xfe 1 5",
        b"MSG a 1 99999999999",
        b"HMSG a 1 5",
        b"HMSG a 1 9 5",
        b"HMSG a 1 -9 5",
        b"INFO not json",
        b"INFO {}",
        b"INFO 5",
        b'INFO {"version":"2.15.1","max_payload":null}',
    ],
)
def test_a_malformed_line_is_refused(line: bytes) -> None:
    """Whatever answers on the port, it is no nats-server; the session must end, not guess."""
    with pytest.raises(UnavailableError) as refused:
        Parser().feed(line + b"\r\nhello, world\r\n")
    assert refused.value.reason is Reason.BROKER_UNAVAILABLE


def test_a_message_must_end_where_its_line_says() -> None:
    """A wrong size would have payload read as protocol."""
    with pytest.raises(UnavailableError, match="does not end"):
        Parser().feed(b"MSG a 1 3\r\nabPING\r\n")


def test_an_endless_control_line_is_bounded() -> None:
    """Without the bound whoever answers could fill the memory."""
    parser = Parser()
    assert parser.feed(b"INFO " + b"x" * (MAX_CONTROL_LINE - 5)) == []
    with pytest.raises(UnavailableError, match="endless"):
        parser.feed(b"x")


def test_a_large_message_is_waited_for() -> None:
    """The bound of the control line is none for payloads, and theirs is the broker's own."""
    payload = b"x" * (MAX_CONTROL_LINE * 3)
    parser = Parser()
    wire = msg("a", 1, "", payload)
    assert parser.feed(wire[:-1]) == []
    assert parser.feed(wire[-1:]) == [Delivery("a", 1, "", b"", payload)]
    with pytest.raises(UnavailableError):
        parser.feed(b"MSG a 1 %d\r\n" % (MAX_MESSAGE + 1))


@pytest.mark.parametrize(
    ("header", "status", "description"),
    [
        (b"", 0, ""),
        (HEADER, 0, ""),
        (b"NATS/1.0 503\r\n\r\n", 503, ""),
        (b"NATS/1.0 404 No Messages\r\nNats-Pending: 0\r\n\r\n", 404, "No Messages"),
        (b"NATS/1.0 409 Message Size Exceeds MaxBytes\r\n\r\n", 409, "Message Size Exceeds MaxBytes"),
        (b"NATS/1.0  100 FlowControl Request\r\n\r\n", 100, "FlowControl Request"),
    ],
)
def test_the_status_line(header: bytes, status: int, description: str) -> None:
    """Control messages are told from facts by it."""
    delivery = Delivery("a", 1, "", header, b"")
    assert (delivery.status, delivery.description) == (status, description)


def test_headers_are_read_as_text() -> None:
    """Spaces around a value do not count, colons inside it do, of a repeated name the last one counts."""
    header = b"NATS/1.0\r\nA: 1\r\nBsfg-Position:  7:00ff \r\nno colon\r\nA:2\r\n\r\n"
    assert Delivery("a", 1, "", header, b"").headers() == {"A": "2", "Bsfg-Position": "7:00ff"}


@given(st.dictionaries(st.sampled_from(["Bsfg-Id", "Bsfg-Detail", "X"]), st.text(max_size=60), min_size=1))
def test_header_values_cannot_inject_anything(headers: dict[str, str]) -> None:
    """Whatever a value holds, the broker sees these headers and this payload, and one frame."""
    block = header_block(
        {name: value + "\r\nPUB log.facts.x 0\r\n\r\nNats-Rollup: all\r\n" for name, value in headers.items()}
    )
    assert block.count(b"\r\n") == len(headers) + 2
    assert block.endswith(b"\r\n\r\n")
    assert list(Delivery("a", 1, "", block, b"").headers()) == list(headers)
    frame = publish("a.b", b"payload", reply="r", header=block)
    line, _, rest = frame.partition(b"\r\n")
    assert line == b"HPUB a.b r %d %d" % (len(block), len(block) + 7)
    assert rest == block + b"payload\r\n"


def test_header_values_survive() -> None:
    """What is in no need of care goes through as it is."""
    values = {"Bsfg-Id": "a:1", "Bsfg-Detail": "Größe 5 µm"}
    assert Delivery("a", 1, "", header_block(values), b"").headers() == values


def test_frames() -> None:
    """As the protocol page has them."""
    assert publish("a", b"xyz") == b"PUB a 3\r\nxyz\r\n"
    assert publish("a", b"", reply="r") == b"PUB a r 0\r\n\r\n"
    assert subscribe("a.>", 5) == b"SUB a.> 5\r\n"
    assert unsubscribe(5) == b"UNSUB 5\r\n"


def test_connect_asks_for_headers_and_proof() -> None:
    """The PING behind it is what proves that the broker took us; quotes in a password change nothing."""
    frame = connect({"user": "agent", "pass": 'p"\r\nPUB x 0\r\n\r\n'}, name="n")
    match = re.fullmatch(rb"CONNECT (\{[^\r\n]*\})\r\nPING\r\n", frame)
    assert match is not None
    options = json.loads(match[1])
    assert (options["user"], options["pass"]) == ("agent", 'p"\r\nPUB x 0\r\n\r\n')
    assert options["headers"]
    assert options["no_responders"]
    assert not options["verbose"]
