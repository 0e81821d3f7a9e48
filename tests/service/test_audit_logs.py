# SPDX-License-Identifier: Apache-2.0
"""``bsfg audit verify`` on logs that somebody with the agent's own password has rewritten, cut, or added to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from appliance.boundary.reasons import ExitCode
from appliance.boundary.records import StoredRecord
from appliance.cli.main import cli
from appliance.dev.environment import Environment
from appliance.dev.layout import PLANT
from tests.audited import (
    CONFIRMED,
    EMPTY,
    LAST,
    OTHER,
    OWN,
    Access,
    break_in,
    copy_of,
    make_zones,
    received_stream,
    tamper,
    verify,
)
from tests.produced import subject


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The zones that the copies are made of; nothing of them runs."""
    return trio.run(make_zones, tmp_path_factory.mktemp("audit"))


@pytest.fixture
def environment(made: Environment, tmp_path: Path) -> Environment:
    """A copy of the zones."""
    return copy_of(made, tmp_path / "zones")


def without(offset: int) -> Callable[[list[StoredRecord]], list[StoredRecord]]:
    """An edit that takes a fact out."""
    return lambda records: [record for record in records if record.origin_offset != offset]


def changed(offset: int, **changes: Any) -> Callable[[list[StoredRecord]], list[StoredRecord]]:
    """An edit that changes a fact."""
    return lambda records: [replace(r, **changes) if r.origin_offset == offset else r for r in records]


def swapped(records: list[StoredRecord]) -> list[StoredRecord]:
    """An edit that changes the order of two facts."""
    third, fourth = records[2], records[3]
    return [*records[:2], replace(fourth, seq=third.seq), replace(third, seq=fourth.seq), *records[4:]]


@pytest.mark.parametrize("stream", ["own", "received"])
@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda records: records, ""),
        (without(9), "offset 9: the fact is missing from the log"),
        (changed(9, payload=b"{}"), "offset 9: the fact was altered"),
        (changed(9, headers={}), "was not written by this zone"),
        (swapped, "offset 3: the fact was altered"),
    ],
    ids=["as-it-was", "removed", "altered", "headers", "swapped"],
)
def test_a_log_that_was_rewritten(
    environment: Environment, stream: str, edit: Callable[[list[StoredRecord]], list[StoredRecord]], found: str
) -> None:
    """By somebody with the agent's own password, who deletes a stream and makes it anew."""
    name, origin = ("FACTS_AUDIT", OWN) if stream == "own" else (received_stream(environment), OTHER)
    break_in(environment, lambda access: access.rewrite(name, edit))
    verdict = verify(environment)
    assert all(finding.startswith(origin) for finding in verdict.findings)
    assert any(found in finding for finding in verdict.findings) == bool(found)
    assert verdict.exit_code == (1 if found else 0)


def test_a_fact_altered_together_with_its_row(environment: Environment) -> None:
    """Payload, its digest in both places: the chain over it tells."""

    def forge(records: list[StoredRecord]) -> list[StoredRecord]:
        headers = {**records[8].headers, "Bsfg-Digest": EMPTY}
        return [*records[:8], replace(records[8], payload=b"{}", headers=headers), *records[9:]]

    break_in(environment, lambda access: access.rewrite("FACTS_AUDIT", forge))
    tamper(environment, PLANT, "UPDATE facts SET digest = x'{empty}' WHERE offset = 9 AND log = {own}")
    verdict = verify(environment)
    assert verdict.findings == [OWN + "offset 9: the chain does not fit what stands before it"]


def test_a_fact_removed_together_with_its_row(environment: Environment) -> None:
    """Nothing is left of it but the chain."""
    break_in(environment, lambda access: access.rewrite("FACTS_AUDIT", without(9)))
    tamper(environment, PLANT, "DELETE FROM facts WHERE offset = 9 AND log = {own}")
    assert verify(environment).findings == [OWN + "offset 10: the chain does not fit what stands before it"]


def test_the_end_removed_from_log_and_ledger(environment: Environment) -> None:
    """The account says where it was."""
    break_in(environment, lambda access: access.rewrite("FACTS_AUDIT", lambda records: records[:-1]))
    tamper(environment, PLANT, "DELETE FROM facts WHERE offset = {last} AND log = {own}")
    assert verify(environment).findings == [OWN + f"the ledger's rows end at {LAST - 1}, its account at {LAST}"]


@pytest.mark.parametrize(
    ("before", "expired", "found"),
    [
        (CONFIRMED + 1, CONFIRMED, []),
        (CONFIRMED + 4, CONFIRMED + 3, [OWN + "offsets 121 to 123 are gone from the log, and not confirmed by all"]),
        (LAST + 1, LAST, [OWN + f"offsets 121 to {LAST} are gone from the log, and not confirmed by all"]),
    ],
)
def test_what_is_gone_must_have_been_confirmed(
    environment: Environment, before: int, expired: int, found: list[str]
) -> None:
    """A purge looks like retention; but of this category only what every peer confirmed may go."""

    async def purge(access: Access) -> None:
        await access.ask("STREAM.PURGE.FACTS_AUDIT", {"seq": before})

    break_in(environment, purge)
    verdict = verify(environment)
    assert verdict.of("plant-a")["expired"] == expired
    assert verdict.findings == found
    assert verdict.exit_code == (1 if found else 0)


def test_received_facts_may_not_go_at_all(environment: Environment) -> None:
    """Nobody trims them here."""
    stream = received_stream(environment)

    async def purge(access: Access) -> None:
        await access.ask(f"STREAM.PURGE.{stream}", {"seq": 4})

    break_in(environment, purge)
    verdict = verify(environment)
    assert verdict.findings == [OTHER + "offsets 1 to 3 are gone from the log, and not confirmed by all"]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ({}, f"record {LAST + 1} was not written by this zone"),
        ({"Bsfg-Position": "1:00"}, f"record {LAST + 1} was not written by this zone"),
        ({"Bsfg-Id": "x"}, f"record {LAST + 1} was not written by this zone"),
        ({"Bsfg-Id": "x", "Bsfg-Digest": "00" * 32}, f"record {LAST + 1}: the fact was altered"),
        (
            {"Bsfg-Id": "x", "Bsfg-Digest": EMPTY},
            f"record {LAST + 1}: the chain does not fit what stands before it",
        ),
    ],
)
def test_a_foreign_record_at_the_end(environment: Environment, headers: dict[str, str], found: str) -> None:
    """Appended past the intake, however much it looks like one of ours."""
    record = StoredRecord(LAST + 1, subject(producer="sensors"), b"{}", headers)
    break_in(environment, lambda access: access.put("log.", record))
    verdict = verify(environment)
    assert verdict.findings == [OWN + found]
    assert verdict.exit_code == 1


def test_a_log_that_is_gone(environment: Environment) -> None:
    """Of own and of received facts."""

    async def remove(access: Access) -> None:
        await access.ask("STREAM.DELETE.FACTS_AUDIT")
        await access.ask(f"STREAM.DELETE.{received_stream(environment)}")

    break_in(environment, remove)
    assert verify(environment).findings == [OWN + "the log is not there", OTHER + "the log is not there"]


def test_a_signer_who_is_not_registered(environment: Environment) -> None:
    """Receipts are held against the keys registered here, whatever certificate they bring along."""
    (environment.layout.zone(PLANT).pki / "zones" / "enterprise.pem").unlink()
    verdict = verify(environment)
    assert OWN + f"receipt at {CONFIRMED}: not signed by enterprise" in verdict.findings
    assert OTHER + f"receipt at {CONFIRMED}: not countersigned by enterprise" in verdict.findings
    assert verdict.exit_code == 1


def test_another_zones_key_under_a_registered_name(environment: Environment) -> None:
    """The registry itself does not hold: that ends the audit, as a denial."""
    zones = environment.layout.zone(PLANT).pki / "zones"
    (zones / "enterprise.pem").write_bytes((zones / "plant-a.pem").read_bytes())
    result = CliRunner().invoke(cli, ["audit", "verify", "--dir", str(environment.layout.root), "--zone", "plant-a"])
    assert result.exit_code == ExitCode.DENIED
    assert "bad_certificate" in result.stderr
