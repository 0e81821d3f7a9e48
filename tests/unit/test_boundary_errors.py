# SPDX-License-Identifier: Apache-2.0
"""Errors can be told to everybody, whatever a peer or producer put into them."""

from __future__ import annotations

import hashlib

from appliance.boundary.errors import PositionError, RefusedError
from appliance.boundary.judging import check_facts, judge
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import START, Fact, Page, Position, link_fact
from appliance.boundary.reasons import Reason
from appliance.boundary.records import LogId
from appliance.factlog.natsproto import header_block

SURROGATE = "\ud800"


def test_a_detail_always_has_a_utf_8_form() -> None:
    """A lone surrogate comes in by JSON, and would break every header, log and answer that carries it on."""
    for error in (RefusedError(Reason.BAD_NAME, SURROGATE), PositionError(Reason.OUT_OF_ORDER, SURROGATE)):
        assert error.detail == "\\ud800"
        assert str(error).encode()


def test_a_poisoned_label_is_a_dead_letter_and_stops_nothing() -> None:
    """The whole way: checked, judged, and its reason fit for the header of a dead letter."""
    message = (
        b'{"envelope":{"from_zone":"plant-a-bsfg","labels":{"\\ud800":1},"message_id":"a","produced_at_unix_ms":1,'
        b'"to_zone":"all"},"fact":{"object_json":{},"predicate":"p","subject":"s"}}'
    )
    digest = hashlib.sha256(message).digest()
    log = LogId(ZoneId("plant-a"), Category("audit"), bytes(16))
    fact = Fact(1, 0, "facts.audit.plant-a.all.press-4.x", message, digest)
    end = Position(1, link_fact(b"", 1, digest))
    page = Page(log.origin, log.category, log.epoch, START, end, (fact,))
    judged = judge(log, page, check_facts(log, ZoneId("enterprise"), page), {}, 0)
    assert judged.through == end
    (letter,) = judged.dead
    assert header_block({"Bsfg-Detail": letter.detail})
