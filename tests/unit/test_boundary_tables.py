# SPDX-License-Identifier: Apache-2.0
"""The tables: every transition is listed or known to be impossible; every reason is explained."""

from __future__ import annotations

import random
from itertools import product

import pytest

from appliance.boundary import modes, transfer
from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import BsfgError, DeniedError
from appliance.boundary.modes import Mode, ModeMachine
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import PeerPolicy, ZonePolicy
from appliance.boundary.reasons import ExitCode, Reason
from appliance.boundary.transfer import MAX_MOVES, Backoff, Event, Step, TransferMachine

IMPOSSIBLE = {
    Step.LOCATE: {Event.PAGE, Event.EMPTY, Event.COMMITTED, Event.CONFIRMED, Event.RESTED},
    Step.FETCH: {Event.LOCATED, Event.COMMITTED, Event.CONFIRMED, Event.RESTED},
    Step.COMMIT: {Event.LOCATED, Event.PAGE, Event.EMPTY, Event.CONFIRMED, Event.RESTED},
    Step.CONFIRM: {Event.LOCATED, Event.PAGE, Event.EMPTY, Event.COMMITTED, Event.RESTED},
    Step.PAUSE: set(Event) - {Event.RESTED},
}
"""What cannot happen in a step: its event belongs to another one."""


@pytest.mark.parametrize(("step", "event"), list(product(Step, Event)))
def test_every_pair_is_a_transition_or_impossible(step: Step, event: Event) -> None:
    """Whoever adds a step or an event has to say which; an impossible one is a defect and is raised."""
    assert ((step, event) in transfer.TRANSITIONS) is (event not in IMPOSSIBLE[step])
    machine = TransferMachine(step)
    if event in IMPOSSIBLE[step]:
        with pytest.raises(KeyError):
            machine.apply(event)
        assert machine.step is step
    else:
        assert machine.apply(event) is machine.step is transfer.TRANSITIONS[step, event]


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.PAUSE])
def test_whatever_goes_wrong_leads_back_to_where_the_receiver_stands(step: Step) -> None:
    """A transfer keeps no position of its own."""
    assert TransferMachine(step).apply(Event.MOVED) is Step.LOCATE
    machine = TransferMachine(step)
    assert machine.apply(Event.FAILED) is Step.PAUSE
    assert machine.failures == 1
    assert machine.apply(Event.RESTED) is Step.LOCATE
    assert machine.failures == 1  # a rest is no progress


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.PAUSE])
def test_too_many_moves_are_a_failure(step: Step) -> None:
    """Both sides keep disagreeing: it must not spin; after the rest each move is one too many again."""
    machine = TransferMachine()
    for _ in range(MAX_MOVES):
        assert machine.apply(Event.MOVED) is Step.LOCATE
    assert machine.failures == 0
    machine.step = step
    assert machine.apply(Event.MOVED) is Step.PAUSE
    assert machine.failures == 1
    machine.apply(Event.RESTED)
    assert machine.apply(Event.MOVED) is Step.PAUSE
    assert machine.failures == 2


@pytest.mark.parametrize(
    ("step", "event"),
    [
        (Step.COMMIT, Event.COMMITTED),
        (Step.CONFIRM, Event.CONFIRMED),
    ],
)
def test_progress_is_forgiving(step: Step, event: Event) -> None:
    """What was committed or confirmed ends a row of failures and moves; what was only fetched does not."""
    machine = TransferMachine(step, failures=3, moves=MAX_MOVES)
    machine.apply(event)
    assert (machine.failures, machine.moves) == (0, 0)
    for begun, early in ((Step.LOCATE, Event.LOCATED), (Step.FETCH, Event.PAGE), (Step.FETCH, Event.EMPTY)):
        machine = TransferMachine(begun, failures=3, moves=2)
        machine.apply(early)
        assert (machine.failures, machine.moves) == (3, 2)


def test_pauses_grow_to_a_limit() -> None:
    """Doubling, never longer than the longest, never less than half, and not the same each time."""
    backoff = Backoff(0.2, 5.0, random.Random(1))
    for failures, limit in ((1, 0.2), (2, 0.4), (5, 3.2), (6, 5.0), (100, 5.0), (10_000, 5.0)):
        pauses = [backoff.pause(failures) for _ in range(200)]
        assert limit / 2 <= min(pauses) < limit * 0.6
        assert limit * 0.9 < max(pauses) <= limit


def test_every_mode_and_event_has_a_transition() -> None:
    """But for quarantine, which no transfer enters or leaves."""
    listed = set(product(set(Mode) - {Mode.QUARANTINED}, modes.Event))
    assert set(modes.TRANSITIONS) == listed
    assert Mode.QUARANTINED not in modes.TRANSITIONS.values()


@pytest.mark.parametrize("mode", list(Mode))
def test_modes_follow_the_boundary(mode: Mode) -> None:
    """What a loop reports leads to one mode, whatever was before; a quarantined node stays quarantined."""
    quarantined = mode is Mode.QUARANTINED
    assert ModeMachine(0, mode).unreachable("a", 1) is (mode if quarantined else Mode.AUTONOMOUS)
    assert ModeMachine(0, mode).reached("a", behind=False, now=1) is (mode if quarantined else Mode.NORMAL)
    behind = {Mode.AUTONOMOUS: Mode.RECONCILING}.get(mode, mode)
    assert ModeMachine(0, mode).reached("a", behind=True, now=1) is behind


def test_a_node_is_normal_when_all_its_loops_have_caught_up() -> None:
    """One that is still draining, or has not spoken again, keeps it reconciling."""
    machine = ModeMachine(10)
    assert (machine.mode, machine.since, machine.changes) == (Mode.AUTONOMOUS, 10, 0)
    machine.unreachable("a", 11)
    machine.unreachable("b", 12)
    assert (machine.since, machine.changes) == (10, 0)  # the mode is the same
    assert machine.reached("a", behind=False, now=13) is Mode.RECONCILING
    assert machine.reached("b", behind=True, now=14) is Mode.RECONCILING
    assert (machine.since, machine.changes) == (13, 1)
    assert machine.reached("b", behind=False, now=15) is Mode.NORMAL
    assert machine.reached("a", behind=True, now=16) is Mode.NORMAL  # load, not a mode
    assert machine.unreachable("b", 17) is Mode.AUTONOMOUS
    assert (machine.since, machine.changes) == (17, 3)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained(reason: Reason) -> None:
    """Text and hint for people, one line each; every error has them."""
    entry = CATALOGUE[reason]
    for words in (entry.meaning, entry.hint):
        assert words.strip() == words
        assert words
        assert words.isprintable()
    assert entry.exit is not ExitCode.OK
    error = BsfgError(reason, "detail")
    assert (error.text, error.hint) == (entry, entry.hint)
    assert str(error) == f"{reason}: {entry.meaning} (detail)"


def test_the_catalogue_is_in_order() -> None:
    """As the codes are declared, so that the two can be read side by side."""
    assert list(CATALOGUE) == list(Reason)


def test_policy_says_who_may_do_what() -> None:
    """Fetching and appending apart; nobody who is not listed."""
    audit, telemetry = Category("audit"), Category("telemetry")
    hub, stranger = ZoneId("enterprise"), ZoneId("plant-x")
    policy = ZonePolicy(ZoneId("plant-a"), {}, {hub: PeerPolicy(frozenset({audit}), frozenset({telemetry}))})
    policy.check_fetch(hub, audit)
    policy.check_append(hub, telemetry)
    for check, peer, category, reason in (
        (policy.check_fetch, hub, telemetry, Reason.CATEGORY_DENIED),
        (policy.check_append, hub, audit, Reason.CATEGORY_DENIED),
        (policy.check_fetch, stranger, audit, Reason.UNKNOWN_PEER),
        (policy.check_append, stranger, telemetry, Reason.UNKNOWN_PEER),
    ):
        with pytest.raises(DeniedError) as denied:
            check(peer, category)
        assert denied.value.reason is reason
