# SPDX-License-Identifier: Apache-2.0
"""Whether the box may speak: the gate's rules, who looks for it, and the thread that renews the lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.boundary.reasons import Reason
from appliance.keys.keeper.port import KeeperState
from appliance.keys.time_token import HubTrust
from appliance.node.status import BrokerStatus, StatusDocument
from appliance.watchdog.gate import KEEPER_SIGHTS, MAX_AGE_S, Finding, Gate, Proof, Sight
from appliance.watchdog.lease import LEASE_S, PERMIT_S, Renewal
from appliance.watchdog.looking import DOCUMENT_ALIVE_S, AgentLook, KeeperLook
from tests.contracts.lease import BlackoutContract, DarkWorld, LeaseContract, World
from tests.fakes.keeper import FakeKeeper
from tests.fakes.lease import FakeLease
from tests.keepers import BUILDER, HUB, OPERATORS, PLANT, Site


class Clock:
    """A clock that is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """The time it was told."""
        return self.now

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class TestFakeLease(LeaseContract):
    """In memory."""

    @pytest.fixture
    def world(self) -> World:
        """With a clock that is told."""
        clock = Clock()
        lease = FakeLease(clock)

        def mend() -> None:
            lease.broken, lease.judged = False, True

        def switch(name: str, value: bool) -> Callable[[], None]:
            return lambda: setattr(lease, name, value)

        return World(lease, lambda: lease.is_open, clock.wait, switch("broken", True), mend, switch("judged", False))


class TestFakeBlackout(BlackoutContract):
    """In memory."""

    @pytest.fixture
    def dark_world(self) -> DarkWorld:
        """With a clock that is told."""
        lease = FakeLease(Clock())

        def breaks(value: bool) -> None:
            lease.broken = value

        return DarkWorld(
            lease,
            lease,
            lambda: lease.is_open,
            lambda: not lease.is_dark,
            lambda: breaks(True),
            lambda: breaks(False),
        )


# -- the gate ----------------------------------------------------------------------------------------------------------


def proven(gate: Gate, now: float, *without: Proof) -> None:
    """All that is needed holds, but for some."""
    for proof in Proof:
        if proof not in without:
            gate.saw(Finding(proof, Sight.HOLDS), now)


def test_nothing_speaks_before_everything_is_proven() -> None:
    """Each proof alone keeps it closed, and is named."""
    for missing in Proof:
        gate = Gate()
        proven(gate, 0.0, missing)
        verdict = gate.judge(0.0)
        assert not verdict.open
        assert [finding.proof for finding in verdict.missing] == [missing]
        gate.saw(Finding(missing, Sight.HOLDS), 0.0)
        assert gate.judge(0.0).open
    assert not Gate().judge(0.0).open


@pytest.mark.parametrize("proof", Proof)
def test_silence_counts_when_the_last_proof_is_old(proof: Proof) -> None:
    """A restart does not cut the link; a service that stays away does, even if nobody says a word any more."""
    gate = Gate()
    proven(gate, 0.0)
    age = MAX_AGE_S[proof]
    proven(gate, age, proof)
    gate.saw(Finding(proof, Sight.SILENT, Reason.KEEPER_UNAVAILABLE), age)
    assert gate.judge(age).open
    assert [finding.proof for finding in gate.judge(age + 0.1).missing] == [proof]
    gate.saw(Finding(proof, Sight.HOLDS), age + 5)
    assert gate.judge(age + 5).open


@pytest.mark.parametrize("proof", Proof)
def test_a_failure_closes_at_once_until_it_holds_again(proof: Proof) -> None:
    """What says no is not asked how old its yes is."""
    gate = Gate()
    proven(gate, 0.0)
    gate.saw(Finding(proof, Sight.FAILS, Reason.KEY_LATCHED, "counter 2"), 0.5)
    assert gate.judge(0.5).missing == (Finding(proof, Sight.FAILS, Reason.KEY_LATCHED, "counter 2"),)
    gate.saw(Finding(proof, Sight.SILENT), 0.6)
    assert not gate.judge(0.6).open
    gate.saw(Finding(proof, Sight.HOLDS), 0.7)
    assert gate.judge(0.7).open


def test_every_state_of_the_keeper_has_its_meaning() -> None:
    """A new state cannot be forgotten; those in which the TPM has not answered for the key prove nothing."""
    assert set(KEEPER_SIGHTS) == set(KeeperState)
    holds = {state for state, sight in KEEPER_SIGHTS.items() if sight is Sight.HOLDS}
    assert holds == {KeeperState.READY, KeeperState.NOT_ENROLLED, KeeperState.TIME_UNKNOWN}


def test_the_longest_age_is_a_minute() -> None:
    """Proofs that live long prove little."""
    assert set(MAX_AGE_S) == set(Proof)
    assert all(LEASE_S < age <= 60 for age in MAX_AGE_S.values())


# -- who looks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def keeper(tmp_path: Path) -> FakeKeeper:
    """One that answers."""
    site = Site(tmp_path / "site", "swtpm:")
    return FakeKeeper(tmp_path, PLANT, HubTrust(HUB, site.hub_ca.certificate), OPERATORS, BUILDER.public_key())


async def test_the_keeper_proves_itself_by_its_state(keeper: FakeKeeper) -> None:
    """A latch is a failure with its reason; a TPM that is away is silence."""
    assert await KeeperLook(keeper).look() == [Finding(Proof.KEEPER, Sight.HOLDS)]
    keeper.absent = True
    (silent,) = await KeeperLook(keeper).look()
    assert (silent.sight, silent.reason) == (Sight.SILENT, Reason.TPM_ABSENT)
    keeper.absent = False
    await keeper.latch(bytes(32))  # type: ignore[arg-type]
    (locked,) = await KeeperLook(keeper).look()
    assert (locked.sight, locked.reason) == (Sight.FAILS, Reason.KEY_LATCHED)


def status(tmp_path: Path, number: int, **values: object) -> Path:
    """The agent's document, each one another file."""
    broker = BrokerStatus(connected=True, durable=True, version="2.15.1")
    document = StatusDocument("agent", PLANT, "1", 1, True, "normal", 0, 0, number, "tpm", broker=broker)
    replace(document, **values).write(tmp_path)  # type: ignore[arg-type]
    return tmp_path / "agent.json"


def sights(findings: list[Finding]) -> dict[str, Sight]:
    """By proof."""
    return {finding.proof: finding.sight for finding in findings}


def test_an_agent_lives_while_its_document_changes(tmp_path: Path) -> None:
    """A document that was left behind says nothing, whatever it says, and whatever time a wall clock makes of it."""
    clock = Clock()
    look = AgentLook(status(tmp_path, 10**15), clock)
    assert sights(look.read()) == {Proof.AGENT: Sight.SILENT, Proof.BROKER: Sight.SILENT}, "seen once is not alive"
    status(tmp_path, 1)
    assert sights(look.read()) == {Proof.AGENT: Sight.HOLDS, Proof.BROKER: Sight.HOLDS}
    clock.wait(DOCUMENT_ALIVE_S + 1)
    assert sights(look.read()) == {Proof.AGENT: Sight.SILENT, Proof.BROKER: Sight.SILENT}


@pytest.mark.parametrize(
    "values",
    [
        {"ready": False},
        {"broker": BrokerStatus(connected=False, durable=True)},
        {"broker": BrokerStatus(connected=True, durable=False)},
    ],
    ids=["logs not settled", "broker away", "broker not durable"],
)
def test_an_agent_without_a_durable_broker_proves_itself_alone(tmp_path: Path, values: dict[str, object]) -> None:
    """Its ledger is open, or it would not say anything."""
    look = AgentLook(status(tmp_path, 1), Clock())
    look.read()
    status(tmp_path, 2, **values)
    assert sights(look.read()) == {Proof.AGENT: Sight.HOLDS, Proof.BROKER: Sight.SILENT}


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 99}', "no JSON"])
def test_what_is_no_document_proves_nothing(tmp_path: Path, text: str) -> None:
    """Nor does one that is not there; on a box every document begins as an empty object."""
    path = tmp_path / "agent.json"
    look = AgentLook(path)
    assert set(sights(look.read()).values()) == {Sight.SILENT}
    for attempt in range(2):
        path.write_text(text + " " * attempt)
        assert set(sights(look.read()).values()) == {Sight.SILENT}


# -- the thread --------------------------------------------------------------------------------------------------------


@pytest.fixture
def lease() -> FakeLease:
    """On the real clock."""
    return FakeLease(time.monotonic)


def wait_for(happened: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait until it did."""
    end = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_thread_renews_while_it_is_permitted(lease: FakeLease) -> None:
    """And closes when the permit is taken back, without waiting for its next round."""
    renewal = Renewal(lease, every_s=0.05)
    renewal.start()
    try:
        wait_for(lambda: lease.closings > 1)
        assert lease.renewals == 0
        renewal.permit.give(time.monotonic())
        wait_for(lambda: lease.renewals > 3)
        assert renewal.is_open
        renewal.permit.take_back()
        renewal.look_now()
        wait_for(lambda: not lease.is_open, 1.0)
    finally:
        renewal.stop()


def test_a_main_loop_that_hangs_closes_the_uplink(lease: FakeLease) -> None:
    """Nobody gives the permit any more, and nobody takes it back."""
    renewal = Renewal(lease, every_s=0.05)
    renewal.start()
    try:
        began = time.monotonic()
        renewal.permit.give(began)
        wait_for(lambda: lease.is_open)
        wait_for(lambda: not lease.is_open)
        assert PERMIT_S - 0.5 <= time.monotonic() - began <= PERMIT_S + 1.0
    finally:
        renewal.stop()


def test_a_thread_that_ends_closes_the_uplink(lease: FakeLease) -> None:
    """The watchdog is stopped in good order."""
    renewal = Renewal(lease, every_s=0.05)
    renewal.start()
    renewal.permit.give(time.monotonic())
    wait_for(lambda: lease.is_open)
    renewal.stop()
    assert not lease.is_open


def test_a_thread_that_is_stuck_is_noticed_and_renews_nothing(lease: FakeLease) -> None:
    """The kernel ends the lease; systemd is no longer told that all is well."""
    renewal = Renewal(lease, every_s=0.05)
    renewal.start()
    wait_for(lambda: renewal.rounds > 0)
    lease.stuck = threading.Event()
    try:
        wait_for(lambda: not renewal.alive(time.monotonic()))
    finally:
        lease.stuck.set()
        renewal.stop()


def test_the_thread_keeps_it_dark_and_ends_the_dark_once(lease: FakeLease) -> None:
    """Whatever somebody else does to it meanwhile; and it never lights what was forbidden a moment before."""
    renewal = Renewal(lease, lease)
    renewal.permit.give(time.monotonic())
    renewal.permit.forbid("in_doubt")
    for _ in range(2):
        lease.why = None
        renewal.round()
        assert (lease.darkened(), renewal.is_open) == ("in_doubt", False)
    renewal.permit.forbid(None)
    renewal.permit.give(time.monotonic())
    renewal.round()
    assert (lease.is_dark, renewal.is_open) == (False, True)
    lease.why = "of another process"
    renewal.round()
    assert lease.is_dark, "it ends only what it has kept dark itself"
    renewal.permit.forbid("kexec_loaded")
    lit: list[bool] = []
    renewal.permit.unless_forbidden(lambda: lit.append(True))
    assert not lit


def test_whoever_darkens_waits_for_who_lights(lease: FakeLease) -> None:
    """So that light never comes after dark; but not for ever, should the kernel not answer."""
    renewal, order = Renewal(lease, lease), list[str]()
    lighting, go_on = threading.Event(), threading.Event()

    def light() -> None:
        lighting.set()
        go_on.wait(5)
        order.append("light")

    thread = threading.Thread(target=renewal.permit.unless_forbidden, args=(light,))
    thread.start()
    lighting.wait(5)
    threading.Timer(0.05, go_on.set).start()
    renewal.permit.forbid("kexec_loaded")
    order.append("dark")
    thread.join()
    assert order == ["light", "dark"]


def test_a_lease_that_fails_is_a_problem_and_not_open(lease: FakeLease) -> None:
    """And is tried again."""
    renewal = Renewal(lease)
    renewal.permit.give(time.monotonic())
    lease.broken = True

    def told() -> tuple[bool, str]:
        renewal.round()
        return renewal.is_open, renewal.problem.partition(":")[0]

    assert told() == (False, Reason.FIREWALL_FAULT)
    lease.broken = False
    assert told() == (True, "")
