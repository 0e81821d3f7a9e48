# SPDX-License-Identifier: Apache-2.0
"""``bsfg audit verify``, offline, on two real zones: clean ones are intact, and a ledger tampered with is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from appliance.boundary.errors import IntegrityError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.dev import audit as audit_module
from appliance.dev.audit import audit
from appliance.dev.environment import FACTS_PORT, Environment
from appliance.dev.layout import ENTERPRISE, PLANT
from appliance.factlog.audit import LogAudit
from tests.audited import (
    CONFIRMED,
    LAST,
    OTHER,
    OWN,
    SENSORS,
    UNCONFIRMED,
    Access,
    break_in,
    copy_of,
    dump,
    facts,
    make_zones,
    tamper,
    verify,
)
from tests.zones import running_broker, running_zone

SWAP_COUNTERSIGNATURES = (
    "UPDATE receipts SET countersignature = "
    "(SELECT other.countersignature FROM receipts AS other WHERE other.id <> receipts.id)"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The zones that the copies are made of; nothing of them runs."""
    return trio.run(make_zones, tmp_path_factory.mktemp("audit"))


@pytest.fixture
def environment(made: Environment, tmp_path: Path) -> Environment:
    """A copy of the zones."""
    return copy_of(made, tmp_path / "zones")


@pytest.mark.parametrize("zone", [PLANT, ENTERPRISE])
def test_clean_zones_are_intact(environment: Environment, zone: ZoneId) -> None:
    """Everything is accounted for: facts, what retention dropped, the gap that was told, receipts of both sides."""
    verdict = verify(environment, zone)
    assert verdict.findings == []
    assert verdict.exit_code == 0
    other = ENTERPRISE if zone == PLANT else PLANT
    own, received = verdict.of(zone), verdict.of(other)
    assert own["facts"] == CONFIRMED + UNCONFIRMED
    assert received["facts"] == CONFIRMED - CONFIRMED // 7
    for log in (own, received):
        assert (log["receipts"], log["countersigned"], log["confirmed"]) == (2, 2, CONFIRMED)
        assert (log["expired"], log["gaps"], log["intact"], log["retired"]) == (0, 0, True, False)
    telemetry = verdict.of(PLANT, "telemetry")
    assert telemetry["facts"] > 0
    if zone == PLANT:  # of this category the oldest may go, confirmed or not
        assert telemetry["expired"] > telemetry["confirmed"] == 40
    else:
        assert (telemetry["expired"], telemetry["gaps"]) == (0, 1)


def test_both_zones_as_a_table(environment: Environment) -> None:
    """For people: a line for each log, findings on standard error, and the exit code."""
    arguments = ["audit", "verify", "--dir", str(environment.layout.root)]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.count("intact") == 6
    tamper(environment, PLANT, "UPDATE facts SET digest = zeroblob(32) WHERE offset = 5 AND log = {own}")
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert result.exit_code == 1
    assert "findings" in result.stdout
    assert "plant-a plant-a audit: offset 5: the fact was altered" in result.stderr


def test_an_audit_changes_nothing(environment: Environment) -> None:
    """Neither an intact zone nor one with findings."""
    tamper(environment, PLANT, "DELETE FROM facts WHERE offset = 5 AND log = {own}")
    before = dump(environment, PLANT)
    first, second = verify(environment), verify(environment)
    assert dump(environment, PLANT) == before
    assert first == second
    assert first.exit_code == 1


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE facts SET digest = zeroblob(32) WHERE offset = 5 AND log = {own}", OWN + "offset 5: the fact was"),
        ("UPDATE facts SET digest = zeroblob(32) WHERE offset = 1 AND log = {own}", OWN + "offset 1: the fact was"),
        ("UPDATE facts SET digest = zeroblob(32) WHERE offset = 5 AND log = {other}", OTHER + "offset 5: the fact was"),
        ("UPDATE facts SET head = zeroblob(32) WHERE offset = 5 AND log = {own}", OWN + "offset 5: the chain does not"),
        ("UPDATE facts SET head = zeroblob(32) WHERE offset = 1 AND log = {own}", OWN + "offset 1: the chain does not"),
        ("UPDATE facts SET head = zeroblob(32) WHERE offset = 5 AND log = {other}", OTHER + "offset 5: the chain does"),
        ("DELETE FROM facts WHERE offset = 5 AND log = {own}", OWN + "1 facts in the log are not in the ledger"),
        ("DELETE FROM facts WHERE offset = 5 AND log = {other}", OTHER + "1 facts in the log are not in the ledger"),
        ("DELETE FROM facts WHERE offset = {last} AND log = {own}", OWN + f"the ledger's rows end at {LAST - 1}"),
        ("DELETE FROM facts WHERE log = {own}", OWN + "the ledger's rows end at 0"),
        ("DELETE FROM facts WHERE offset = {confirmed} AND log = {other}", OTHER + "receipt at 120: another chain"),
        ("UPDATE facts SET seq = seq + 1000 WHERE offset = 5 AND log = {own}", OWN + "offset 5: the fact is missing"),
        ("UPDATE facts SET outcome = 'duplicate' WHERE offset = 5 AND log = {own}", OWN + "1 facts in the log are"),
        ("UPDATE logs SET head = zeroblob(32) WHERE id = {own}", OWN + "the chain does not end at the ledger's head"),
        ("UPDATE logs SET head = zeroblob(32) WHERE id = {other}", OTHER + "the chain does not end at the ledger's"),
        ("UPDATE logs SET epoch = zeroblob(16) WHERE id = {own}", OWN + "the log is not there"),
        (
            "UPDATE receipts SET signature = zeroblob(70) WHERE origin = 'plant-a'",
            OWN + "receipt at 120: not signed by",
        ),
        (
            "UPDATE receipts SET offset = offset - 1 WHERE origin = 'plant-a'",
            OWN + "receipt at 119: not signed by ente",
        ),
        (
            "UPDATE receipts SET committed_at = 1 WHERE origin = 'enterprise'",
            OTHER + "receipt at 120: not signed by pl",
        ),
        (
            "UPDATE receipts SET head = zeroblob(32) WHERE origin = 'enterprise'",
            OTHER + "receipt at 120: another chain",
        ),
        (
            "UPDATE receipts SET receiver = 'plant-b' WHERE origin = 'plant-a'",
            OWN + "receipt at 120: not signed by pla",
        ),
        (
            "UPDATE receipts SET countersignature = signature, countercertificate = certificate",
            OWN + "receipt at 120: not countersigned by plant-a",
        ),
        (
            SWAP_COUNTERSIGNATURES,
            OTHER + "receipt at 120: not countersigned by enterprise",
        ),
        (
            "UPDATE receipts SET epoch = zeroblob(16), signature = zeroblob(70) WHERE origin = 'plant-a'",
            OWN + "receipt at 120: not signed by enterprise",
        ),
    ],
)
def test_a_ledger_that_was_tampered_with(environment: Environment, statement: str, found: str) -> None:
    """Each change is found, by its own words, and fails the command."""
    tamper(environment, PLANT, statement)
    verdict = verify(environment)
    assert [finding for finding in verdict.findings if finding.startswith(found)]
    assert verdict.exit_code == 1


def test_facts_the_ledger_does_not_know_yet_are_no_finding(environment: Environment) -> None:
    """A crash between log and ledger: the ledger follows at the next start."""
    tamper(
        environment,
        PLANT,
        "UPDATE logs SET through = {last} - 3, seq = {last} - 3, "
        "head = (SELECT head FROM facts WHERE log = {own} AND offset = {last} - 3) WHERE id = {own}",
        "DELETE FROM facts WHERE log = {own} AND offset > {last} - 3",
    )
    verdict = verify(environment)
    assert verdict.findings == []
    assert verdict.of("plant-a")["facts"] == LAST - 3


def test_a_rebuilt_ledger_is_intact(environment: Environment) -> None:
    """Deleted, and made anew from logs whose beginnings are gone."""

    async def purge(access: Access) -> None:
        await access.ask("STREAM.PURGE.FACTS_AUDIT", {"seq": 50})

    async def rebuild() -> None:
        async with running_broker(environment), running_zone(environment):
            pass

    break_in(environment, purge)
    for path in environment.layout.zone(PLANT).state.iterdir():
        path.unlink()
    trio.run(rebuild)
    verdict = verify(environment)
    assert verdict.findings == []
    assert verdict.of("plant-a")["facts"] == LAST - 49
    assert verdict.of("plant-a")["expired"] == 49


async def test_a_zone_can_be_audited_while_it_works(environment: Environment) -> None:
    """Over the broker that runs; what comes meanwhile is no finding."""
    results: list[list[LogAudit]] = []
    async with running_broker(environment), running_zone(environment) as zone, trio.open_nursery() as nursery:

        async def work() -> None:
            for number in range(1000, 10_000):
                await zone.desk.append_facts(SENSORS, facts(PLANT, "audit", range(number * 5, number * 5 + 5)))

        nursery.start_soon(work)
        for _ in range(5):
            results += [await audit(environment, PLANT)]
        nursery.cancel_scope.cancel()
    assert [finding for result in results for log in result for finding in log.findings] == []
    seen = [sum(log.facts for log in result if log.origin == PLANT) for result in results]
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


async def test_what_keeps_an_audit_from_running_is_a_plain_error(
    environment: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a group of errors: the command line prints reason and hint, and exits by it."""
    monkeypatch.setattr(audit_module, "CONNECT_TIMEOUT_S", 0.3)
    state = environment.layout.zone(PLANT).state
    kept = (state / "ledger.db").read_bytes()
    (state / "ledger.db").write_bytes(b"no ledger" * 1000)
    with pytest.raises(IntegrityError) as damaged:
        await audit(environment, PLANT)
    assert damaged.value.reason is Reason.LEDGER_DAMAGED
    (state / "ledger.db").unlink()
    with pytest.raises(UnavailableError) as never:
        await audit(environment, PLANT)
    assert never.value.reason is Reason.NOT_READY
    (state / "ledger.db").write_bytes(kept)
    async with trio.open_nursery() as nursery:
        port = environment.ports[FACTS_PORT[PLANT]]
        await nursery.start(trio.serve_tcp, lambda stream: stream.receive_some(), port)
        with pytest.raises(UnavailableError, match="lets nobody in") as away:
            await audit(environment, PLANT)
        nursery.cancel_scope.cancel()
    assert away.value.reason is Reason.BROKER_UNAVAILABLE
    environment.layout.zone(PLANT).facts_config.write_text("nonsense {")
    with pytest.raises(UnavailableError) as refused:
        await audit(environment, PLANT)
    assert refused.value.reason is Reason.BROKER_REFUSED
