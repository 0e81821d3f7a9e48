# SPDX-License-Identifier: Apache-2.0
"""What follows from readings, under simulated time and in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.watchdog.assessing import LINGERS_S, READING_AGE_S, SENSOR_AGE_S, Assessor, Trigger
from appliance.watchdog.gate import Finding, Gate, Proof, Sight
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName, Response

PROBES = sorted(frozenset(READING_AGE_S) - {ProbeName.SENSOR})
QUARANTINING = [code for code in Code if SUSPICIONS[code].quarantines]
CLOSING = [code for code in Code if SUSPICIONS[code].response is Response.CLOSE]
MILD = [code for code in Code if SUSPICIONS[code].response in {Response.NOTE, Response.SUSPEND, Response.STOP}]


def reading(code: Code, detail: str = "") -> Reading:
    """What the probe of this code says when it has seen that."""
    return Reading(SUSPICIONS[code].probe, (Seen(code, detail),))


def proven(assessor: Assessor, now: float) -> None:
    """Everything is well."""
    for proof in Proof:
        assessor.gate.saw(Finding(proof, Sight.HOLDS), now)
    for probe in PROBES:
        assessor.take(Reading(probe), now)
    assessor.heard(now)


def test_every_probe_is_needed() -> None:
    """One that has not looked yet keeps the uplink closed, and is named; so does a sensor that nobody heard."""
    for missing in PROBES:
        assessor = Assessor()
        proven(assessor, 0.0)
        assert assessor.judge(0.0).open
        other = Assessor()
        for probe in PROBES:
            if probe is not missing:
                other.take(Reading(probe), 0.0)
        for proof in Proof:
            other.gate.saw(Finding(proof, Sight.HOLDS), 0.0)
        assert {each.proof for each in other.judge(0.0).missing} == {missing, ProbeName.SENSOR}
        assert {each.reason for each in other.judge(0.0).missing} == {"not_ready"}
        other.heard(0.0)
        other.take(Reading(missing, blind="busy"), 0.0)
        assert [(each.proof, each.reason) for each in other.judge(0.0).missing] == [(missing, Code.PROBE_BLIND)]
        other.take(Reading(missing), 0.0)
        assert other.judge(0.0).open


def test_every_probe_has_an_age_and_no_age_is_long() -> None:
    """A new probe cannot be forgotten; who asks for quarantine by hand is none."""
    assert set(READING_AGE_S) == set(ProbeName) - {ProbeName.OPERATOR}
    assert all(10.0 <= age <= 60.0 for age in READING_AGE_S.values())


@pytest.mark.parametrize("code", QUARANTINING)
def test_the_first_finding_that_quarantines_is_the_trigger(code: Code) -> None:
    """It closes at once and for good, whatever is seen afterwards, and whether or not that probe is needed."""
    assessor = Assessor(probes=frozenset({ProbeName.DISK}))
    assessor.take(Reading(ProbeName.DISK), 0.0)
    trigger = assessor.take(reading(code, "x"), 1.0)
    assert trigger == Trigger(Seen(code, "x"), 1.0)
    assert assessor.take(reading(Code.KEXEC_LOADED), 2.0) is None
    assessor.take(Reading(ProbeName.DISK), 3.0)
    assert assessor.trigger == trigger
    verdict = assessor.judge(3.0)
    assert not verdict.open
    assert (verdict.missing[0].reason, verdict.missing[0].detail) == (code, "x")


@pytest.mark.parametrize("code", CLOSING)
def test_what_closes_closes_while_it_lasts(code: Code) -> None:
    """And quarantines nobody, however often it comes."""
    assessor = Assessor(probes=frozenset(ProbeName) - {ProbeName.OPERATOR})
    proven(assessor, 0.0)
    for round_number in range(50):
        now = float(round_number)
        proven(assessor, now)
        assert assessor.take(reading(code), now) is None
        assert code in {each.reason for each in assessor.judge(now).missing}
        assessor.take(Reading(SUSPICIONS[code].probe), now)
        assert assessor.judge(now).open


@pytest.mark.parametrize("code", MILD)
def test_what_is_only_told_closes_nothing(code: Code) -> None:
    """It is a note: since when, how often, and told for a while after it is gone."""
    assessor = Assessor()
    proven(assessor, 0.0)
    for now in (1.0, 2.0, 3.0):
        assert assessor.take(reading(code, f"at {now:g}"), now) is None
        assert assessor.judge(now).open
    (note,) = assessor.notes(3.0)
    assert (note.seen, note.since, note.last, note.count, note.lasts) == (Seen(code, "at 3"), 1.0, 3.0, 3, True)
    assessor.take(Reading(SUSPICIONS[code].probe, blind="busy"), 4.0)
    assert assessor.notes(4.0)[0].lasts, "a blind probe has not seen it end"
    assessor.take(Reading(SUSPICIONS[code].probe), 5.0)
    assert not assessor.notes(5.0)[0].lasts
    assert assessor.notes(3.0 + LINGERS_S + 1) == ()
    assessor.take(reading(code), 2 * LINGERS_S + 10)
    assert assessor.notes(2 * LINGERS_S + 10)[0].since == 2 * LINGERS_S + 10, "it begins anew"


@pytest.mark.parametrize("probe", PROBES)
def test_a_probe_that_is_blind_or_silent_closes_when_its_last_reading_is_old(probe: ProbeName) -> None:
    """A busy moment does not cut the link; a probe that stays away does, and is named by the code for that."""
    for blind in (True, False):
        assessor = Assessor()
        proven(assessor, 0.0)
        age = READING_AGE_S[probe]
        for now in (age / 2, age, age + 0.5):
            for proof in Proof:
                assessor.gate.saw(Finding(proof, Sight.HOLDS), now)
            for other in PROBES:
                if other is not probe:
                    assessor.take(Reading(other), now)
                elif blind:
                    assessor.take(Reading(other, blind="busy"), now)
            assessor.heard(now)
            missing = [(each.proof, each.reason) for each in assessor.judge(now).missing]
            assert missing == ([] if now <= age else [(probe, Code.PROBE_BLIND)])


def test_a_dead_sensor_counts_after_ten_seconds() -> None:
    """It closes; and what it said last does not keep anything open."""
    assessor = Assessor()
    proven(assessor, 0.0)
    assert assessor.judge(SENSOR_AGE_S).open
    verdict = assessor.judge(SENSOR_AGE_S + 0.1)
    assert [(each.proof, each.reason) for each in verdict.missing] == [(ProbeName.SENSOR, Code.SENSOR_SILENT)]
    assessor.heard(SENSOR_AGE_S + 1)
    assert assessor.judge(SENSOR_AGE_S + 1).open


# -- any order ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Oracle:
    """The same rules, said the long way round: the whole history, looked through each time."""

    history: list[tuple[float, Reading | None]] = field(default_factory=list)

    def trigger(self) -> Code | None:
        """The first finding that quarantines."""
        for _, said in self.history:
            for seen in said.seen if said else ():
                if SUSPICIONS[seen.code].quarantines:
                    return seen.code
        return None

    def may_be_open(self, now: float) -> bool:
        """Whether nothing speaks against it."""
        return self.trigger() is None and self._sensor(now) and all(self._fresh(probe, now) for probe in PROBES)

    def _sensor(self, now: float) -> bool:
        faulty = False
        heard = -1000.0
        for at, said in self.history:
            if said is not None and said.probe is ProbeName.SENSOR:
                faulty = bool(said.seen)
            if not faulty and (said is None or (said.probe is ProbeName.SENSOR and not said.blind)):
                heard = at
            elif faulty:
                heard = -1000.0
        return now - heard <= SENSOR_AGE_S

    def _fresh(self, probe: ProbeName, now: float) -> bool:
        for at, said in reversed(self.history):
            if said is None or said.probe is not probe:
                continue
            if any(SUSPICIONS[seen.code].response in {Response.CLOSE, Response.QUARANTINE} for seen in said.seen):
                return False
            if not said.blind:
                return now - at <= READING_AGE_S[probe]
        return False


def _readings(codes: list[Code]) -> st.SearchStrategy[Reading]:
    return st.sampled_from(codes).flatmap(
        lambda code: st.builds(
            Reading, st.just(SUSPICIONS[code].probe), st.just((Seen(code),)), st.sampled_from(["", "", "busy"])
        )
    )


GOOD = st.builds(Reading, st.sampled_from(PROBES), st.just(()), st.sampled_from(["", "", "", "busy"]))
SAID = st.one_of(st.none(), GOOD, GOOD, GOOD, _readings(MILD), _readings([*CLOSING, *MILD]))
WITH_TRIGGERS = st.one_of(SAID, SAID, _readings(QUARANTINING))


def played(events: list[tuple[float, Reading | None]], *, begin_proven: bool) -> None:
    """Play it to an assessor and to the oracle; they agree after each event, and between them."""
    assessor, oracle, now = Assessor(gate=Gate(max_age_s={})), Oracle(), 0.0
    if begin_proven:
        for probe in PROBES:
            assessor.take(Reading(probe), now)
            oracle.history.append((now, Reading(probe)))
        assessor.heard(now)
        oracle.history.append((now, None))
    for wait_s, said in events:
        now += wait_s
        assert assessor.judge(now).open == oracle.may_be_open(now), "after a wait"
        before = assessor.trigger
        oracle.history.append((now, said))
        if said is None:
            assessor.heard(now)
        else:
            triggered = assessor.take(said, now)
            assert (triggered is not None) == (before is None and oracle.trigger() is not None)
        assert (assessor.trigger.seen.code if assessor.trigger else None) == oracle.trigger()
        verdict = assessor.judge(now)
        assert verdict.open == oracle.may_be_open(now)
        assert verdict.open == (verdict.missing == ())


@settings(max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 30), SAID), max_size=40), st.booleans())
def test_without_a_code_that_quarantines_there_is_no_quarantine(
    events: list[tuple[float, Reading | None]], begin_proven: bool
) -> None:
    """In any order, with any waits; and it is open exactly when everything is fresh."""
    played(events, begin_proven=begin_proven)
    assessor = Assessor()
    assert all(assessor.take(said, 0.0) is None for _, said in events if said is not None)


@settings(max_examples=150)
@given(st.lists(st.tuples(st.floats(0, 12), WITH_TRIGGERS), max_size=40))
def test_once_triggered_it_never_opens_again(events: list[tuple[float, Reading | None]]) -> None:
    """The first one that quarantines stays the trigger."""
    played(events, begin_proven=True)
