# SPDX-License-Identifier: Apache-2.0
"""The intake's words to NATS producers: the JetStream acknowledgement, and an error for each reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from appliance.boundary.errors import BsfgError, IntegrityError, UnavailableError
from appliance.boundary.intake import Answer, Intake
from appliance.boundary.names import Category
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact
from appliance.boundary.reasons import Reason
from appliance.factlog.nats_intake import ERROR_CODE, NatsIntake
from appliance.factlog.natslogin import Credentials
from appliance.factlog.natsproto import Delivery, header_block
from appliance.factlog.natswire import NatsWire
from tests.produced import PLANT, payload, subject


class Wire(NatsWire):
    """Not connected to anything: remembers what would be sent."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__("127.0.0.1", 1, Credentials("agent", "x"), name="test")
        self.sent: list[bytes] = []
        self.subjects: list[str] = []
        self.broken = broken
        self.deliver: Callable[[list[Delivery]], None] = lambda deliveries: None

    def subscribe(self, subject: str, deliver: Callable[[list[Delivery]], None]) -> None:
        """Remember who wants what."""
        self.subjects.append(subject)
        self.deliver = deliver

    def send(self, frames: bytes) -> None:
        """Remember it, or fail as a broken connection does."""
        if self.broken:
            raise UnavailableError(Reason.BROKER_UNAVAILABLE)
        self.sent.append(frames)

    def answer(self) -> tuple[str, dict[str, Any]]:
        """Where the one answer went, and what it says."""
        (frame,) = self.sent
        line, _, rest = frame.partition(b"\r\n")
        return line.split()[1].decode(), json.loads(rest)


class Stub(Intake):
    """Answers every unit with one outcome."""

    def __init__(self, outcome: AppendResult | BsfgError) -> None:
        self.taken: list[ProducedFact] = []
        self._outcome = outcome

    def submit(self, facts: Sequence[ProducedFact], answer: Answer) -> None:
        """Take and answer."""
        self.taken += facts
        answer(self._outcome if isinstance(self._outcome, BsfgError) else [self._outcome])


def asked(
    outcome: AppendResult | BsfgError, *, reply: str = "_R_.x.1", header: bytes = b"", broken: bool = False
) -> Wire:
    """A wire on which one fact came in and got this outcome."""
    wire, stub = Wire(broken=broken), Stub(outcome)
    NatsIntake(PLANT, Category("audit"), wire, stub)
    wire.deliver([Delivery(subject(), 2, reply, header, payload("a"))])
    header_id = header.decode().partition("Nats-Msg-Id: ")[2].partition("\r")[0] or None
    assert stub.taken == [ProducedFact(subject(), payload("a"), header_id)]
    return wire


def test_it_hears_its_own_category_of_its_own_zone() -> None:
    """One subscription for each intake."""
    wire = Wire()
    NatsIntake(PLANT, Category("audit"), wire, Stub(AppendResult(AppendOutcome.STORED)))
    assert wire.subjects == ["facts.audit.plant-a.>"]


def test_stored_and_duplicate_are_acknowledgements() -> None:
    """As JetStream words them."""
    assert asked(AppendResult(AppendOutcome.STORED, 7)).answer() == ("_R_.x.1", {"stream": "FACTS_AUDIT", "seq": 7})
    _, duplicate = asked(AppendResult(AppendOutcome.DUPLICATE, 3)).answer()
    assert duplicate == {"stream": "FACTS_AUDIT", "seq": 3, "duplicate": True}


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (AppendResult(AppendOutcome.CONFLICT, reason=Reason.CONFLICTING_DUPLICATE, detail="x"), 409),
        (AppendResult(AppendOutcome.INVALID, reason=Reason.MALFORMED_JSON, detail="x"), 400),
        (AppendResult(AppendOutcome.INVALID, reason=Reason.TOO_LARGE, detail="x"), 400),
        (AppendResult(AppendOutcome.INVALID, reason=Reason.ID_MISMATCH, detail="x"), 400),
        (AppendResult(AppendOutcome.INVALID, reason=Reason.ZONE_MISMATCH, detail="x"), 400),
        (AppendResult(AppendOutcome.INVALID, reason=Reason.NUMBER_RANGE, detail="x"), 400),
        (AppendResult(AppendOutcome.INVALID, reason=Reason.BUFFER_FULL, detail="x"), 503),
        (UnavailableError(Reason.BROKER_UNAVAILABLE, "x"), 503),
        (UnavailableError(Reason.NOT_READY, "x"), 503),
        (UnavailableError(Reason.BROKER_REFUSED, "x"), 503),
        (IntegrityError(Reason.LOG_DAMAGED, "x"), 503),
    ],
)
def test_an_error_says_what_the_producer_can_do(outcome: AppendResult | BsfgError, code: int) -> None:
    """409: change the id; 400: change the fact; 503: send the same again. The text begins with the reason."""
    _, answer = asked(outcome).answer()
    assert answer["stream"] == "FACTS_AUDIT"
    assert "seq" not in answer
    assert answer["error"] == {"code": code, "err_code": ERROR_CODE, "description": f"{outcome.reason}: x"}


def test_who_does_not_ask_is_not_answered() -> None:
    """A core publish without a reply subject is taken all the same."""
    assert asked(AppendResult(AppendOutcome.STORED, 1), reply="").sent == []
    assert asked(UnavailableError(Reason.NOT_READY), reply="").sent == []


def test_a_broken_connection_is_the_producers_timeout() -> None:
    """The intake must go on with the others."""
    assert asked(AppendResult(AppendOutcome.STORED, 1), broken=True).sent == []


def test_the_header_id_is_handed_on() -> None:
    """What a stock client sends as ``Nats-Msg-Id`` is checked against the envelope."""
    assert asked(AppendResult(AppendOutcome.STORED, 1), header=header_block({"Nats-Msg-Id": "b"})).sent
    assert asked(AppendResult(AppendOutcome.STORED, 1), header=header_block({"Other": "b"})).sent


@pytest.mark.parametrize("name", ["Nats-Expected-Last-Sequence", "Nats-Rollup", "Nats-TTL", "nats-batch-id"])
def test_what_the_intake_does_not_do_it_refuses(name: str) -> None:
    """To store the fact and ignore the header would promise what is not done."""
    wire, stub = Wire(), Stub(AppendResult(AppendOutcome.STORED, 1))
    NatsIntake(PLANT, Category("audit"), wire, stub)
    wire.deliver([Delivery(subject(), 2, "_R_.x.1", header_block({name: "1"}), payload("a"))])
    assert stub.taken == []
    assert b"unsupported: the header" in wire.sent[0]
