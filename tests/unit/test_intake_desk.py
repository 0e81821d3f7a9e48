# SPDX-License-Identifier: Apache-2.0
"""AppendFact for local producers: what the desk lets through, under whose name, and how outcomes come back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from appliance.boundary.errors import BsfgError, DeniedError, RefusedError, UnavailableError
from appliance.boundary.intake import Answer, Intake, ProducerDesk
from appliance.boundary.names import Category, ProducerId
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact, Producer
from appliance.boundary.reasons import Reason
from tests.produced import PLANT, payload, produced, subject

AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
PRESS = Producer(ProducerId("press-4"))
MES = Producer(ProducerId("mes"), frozenset({AUDIT}))


class Stub(Intake):
    """Takes units, and answers each with what it was given."""

    def __init__(self, error: BsfgError | None = None) -> None:
        self.taken: list[list[str]] = []
        self._error = error

    def submit(self, facts: Sequence[ProducedFact], answer: Answer) -> None:
        """Answer at once."""
        self.taken.append([fact.subject for fact in facts])
        answer(self._error or [AppendResult(AppendOutcome.STORED, n) for n in range(1, len(facts) + 1)])


async def test_facts_reach_the_intake_of_their_category() -> None:
    """As one unit, with one result each in order."""
    audit, telemetry = Stub(), Stub()
    desk = ProducerDesk(PLANT, {AUDIT: audit, TELEMETRY: telemetry})
    results = await desk.append_facts(PRESS, [produced("a"), produced("b")])
    assert results == [AppendResult(AppendOutcome.STORED, 1), AppendResult(AppendOutcome.STORED, 2)]
    await desk.append_facts(PRESS, [produced("a", "telemetry")])
    assert audit.taken == [[subject()] * 2]
    assert telemetry.taken == [[subject("telemetry")]]


async def test_an_unknown_outcome_is_an_error() -> None:
    """The caller must not take it for a refusal."""
    desk = ProducerDesk(PLANT, {AUDIT: Stub(UnavailableError(Reason.BROKER_UNAVAILABLE))})
    with pytest.raises(UnavailableError):
        await desk.append_facts(PRESS, [produced("a")])


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_request_has_a_page_of_facts_at_most(count: int) -> None:
    """And at least one."""
    intake = Stub()
    with pytest.raises(RefusedError) as refused:
        await ProducerDesk(PLANT, {AUDIT: intake}).append_facts(PRESS, [produced("a")] * count)
    assert refused.value.reason is Reason.BAD_REQUEST
    assert intake.taken == []
    assert len(await ProducerDesk(PLANT, {AUDIT: intake}).append_facts(PRESS, [produced("a")] * 1000)) == 1000


@pytest.mark.parametrize(
    ("producer", "facts", "error", "reason"),
    [
        (PRESS, [produced("a"), produced("b", "telemetry")], RefusedError, Reason.BAD_REQUEST),
        (PRESS, [ProducedFact("facts.audit", b"{}")], RefusedError, Reason.BAD_NAME),
        (PRESS, [produced("a"), produced("b", producer="mes")], DeniedError, Reason.CATEGORY_DENIED),
        (MES, [produced("a")], DeniedError, Reason.CATEGORY_DENIED),
        (MES, [produced("a", "telemetry", producer="mes")], DeniedError, Reason.CATEGORY_DENIED),
        (PRESS, [produced("a", "unknown")], DeniedError, Reason.CATEGORY_DENIED),
        (
            PRESS,
            [ProducedFact(subject(origin="enterprise"), payload("a", origin="enterprise"))],
            DeniedError,
            Reason.CATEGORY_DENIED,
        ),
    ],
)
async def test_what_is_not_the_producers_to_append(
    producer: Producer, facts: list[ProducedFact], error: type[BsfgError], reason: Reason
) -> None:
    """Another's name, zone or category: nothing of it reaches an intake."""
    audit, telemetry = Stub(), Stub()
    with pytest.raises(error) as refused:
        await ProducerDesk(PLANT, {AUDIT: audit, TELEMETRY: telemetry}).append_facts(producer, facts)
    assert refused.value.reason is reason
    assert audit.taken == telemetry.taken == []
