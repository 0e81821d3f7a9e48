# SPDX-License-Identifier: Apache-2.0
"""The demo's judgement over two logs: what was lost, doubled, altered or reordered is seen."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import rfc8785

from appliance.dev.demo.compare import LogContent, compare

SENT = {f"m-{n}": json.dumps({"n": n, "a": "x"}).encode() for n in range(1, 6)}
STORED = [(message_id, rfc8785.dumps(json.loads(payload))) for message_id, payload in SENT.items()]


def log(entries: Sequence[tuple[str, bytes]]) -> LogContent:
    """A log with these entries."""
    return LogContent(tuple(i for i, _ in entries), tuple(p for _, p in entries))


def test_what_is_as_promised() -> None:
    """Both logs hold what was acknowledged, once, in the same order, canonical."""
    result = compare(log(STORED), log(STORED), SENT)
    assert (result.lost, result.doubled, result.altered, result.equal) == (0, 0, 0, True)


def test_more_than_was_acknowledged_is_no_fault() -> None:
    """An answer that was lost leaves a fact that its producer does not know of."""
    assert compare(log(STORED), log(STORED), dict(list(SENT.items())[:3])).equal


REORDERED = [STORED[1], STORED[0], *STORED[2:]]
ALTERED = [("m-1", b'{"a":"x","n":7}'), *STORED[1:]]


@pytest.mark.parametrize(
    ("own", "received", "lost", "doubled", "altered"),
    [
        (STORED[1:], STORED[1:], 1, 0, 0),
        (STORED, STORED[:-1], 1, 0, 0),
        (STORED, [], 5, 0, 0),
        ([], [], 5, 0, 0),
        ([*STORED, STORED[0]], [*STORED, STORED[0]], 0, 2, 0),
        (STORED, [*STORED, STORED[2]], 0, 1, 0),
        (ALTERED, ALTERED, 0, 0, 1),
        ([("m-1", SENT["m-1"]), *STORED[1:]], STORED, 0, 0, 1),  # not canonical
        (STORED, ALTERED, 0, 0, 0),
        (STORED, REORDERED, 0, 0, 0),
        (STORED, [*STORED, ("m-9", b"{}")], 0, 0, 0),
    ],
    ids=[
        "lost-in-both",
        "lost-on-the-way",
        "nothing-received",
        "nothing-stored",
        "doubled-in-both",
        "doubled-on-the-way",
        "altered-when-stored",
        "not-canonical",
        "altered-on-the-way",
        "reordered",
        "invented",
    ],
)
def test_every_fault_is_seen(
    own: list[tuple[str, bytes]], received: list[tuple[str, bytes]], lost: int, doubled: int, altered: int
) -> None:
    """Counted where it can be counted, and never equal."""
    result = compare(log(own), log(received), SENT)
    assert (result.lost, result.doubled, result.altered) == (lost, doubled, altered)
    assert not result.equal


def test_the_digest_is_over_each_payload() -> None:
    """Bytes that move from one fact to the next change it."""
    one, other = LogContent(("a", "b"), (b"12", b"3")), LogContent(("a", "b"), (b"1", b"23"))
    assert one.digest != other.digest
    assert one.digest != LogContent(("a",), (b"123",)).digest
    assert LogContent().digest != LogContent(("a",), (b"",)).digest
