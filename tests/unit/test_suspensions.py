# SPDX-License-Identifier: Apache-2.0
"""Producers with two facts under one id: they are not served until somebody has looked, and nobody else is hindered."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner

from appliance.boundary.claims import IdClaims
from appliance.boundary.errors import BsfgError
from appliance.boundary.intake import Intake
from appliance.boundary.names import Category, ProducerId
from appliance.boundary.producing import AppendOutcome, AppendResult, ProducedFact
from appliance.boundary.reasons import Reason
from appliance.boundary.store import StoreBuffer
from appliance.boundary.suspending import NobodySuspended, SuspensionsPort
from appliance.cli.main import cli
from appliance.node.suspensions import BOOT_ID_VARIABLE, FILE, STICK, FileSuspensions, ask_to_lift
from tests.contracts.suspensions import PRESS, PUMP, SuspensionsContract, World
from tests.fakes.ledger import FakeLedger
from tests.fakes.logs import FakeDisk, FakeLogs, Faults
from tests.fakes.suspensions import FakeSuspensions
from tests.produced import PLANT, produced

AUDIT, TELEMETRY = Category("audit"), Category("telemetry")
STORED, CONFLICT, INVALID = AppendOutcome.STORED, AppendOutcome.CONFLICT, AppendOutcome.INVALID


@pytest.fixture
def boot_id(tmp_path: Path) -> Path:
    """The id of this boot."""
    path = tmp_path / "boot_id"
    path.write_text("boot-1\n")
    return path


class TestFile(SuspensionsContract):
    """In a node's folder."""

    @pytest.fixture
    def world(self, tmp_path: Path, boot_id: Path) -> World:
        """The real one."""
        folder = tmp_path / "state"

        def lift(port: SuspensionsPort, producer: ProducerId) -> None:
            assert isinstance(port, FileSuspensions)
            path = ask_to_lift(folder, producer)
            port.lift_asked()
            assert not path.exists()

        return World(lambda: FileSuspensions(folder, boot_id), lift)


class TestFake(SuspensionsContract):
    """In memory."""

    @pytest.fixture
    def world(self) -> World:
        """The fake."""
        kept = FakeSuspensions()
        return World(lambda: kept, lambda _, producer: kept.lift(producer))


@asynccontextmanager
async def intakes(suspensions: SuspensionsPort) -> AsyncIterator[dict[Category, Intake]]:
    """Two categories of one zone, in memory."""
    faults, disk, ledger, claims = Faults(random.Random(0)), FakeDisk(), FakeLedger(), IdClaims()
    logs = FakeLogs(PLANT, disk, faults)
    stores = [StoreBuffer(PLANT, c, logs, ledger, claims, note=lambda _: None) for c in (AUDIT, TELEMETRY)]
    made = {store.category: Intake(store, suspensions) for store in stores}
    async with trio.open_nursery() as nursery:
        for intake in made.values():
            nursery.start_soon(intake.run)
        yield made
        nursery.cancel_scope.cancel()


async def append(intake: Intake, *facts: ProducedFact) -> list[AppendResult]:
    """Hand facts in; what is answered."""
    answers: list[object] = []
    answered = trio.Event()

    def answer(outcome: object) -> None:
        answers.append(outcome)
        answered.set()

    intake.submit(facts, answer)
    with trio.fail_after(10):
        await answered.wait()
    assert not isinstance(answers[0], BsfgError)
    return list(answers[0])  # type: ignore[call-overload, no-any-return]


async def test_a_conflict_suspends_its_producer_alone() -> None:
    """In every category, and until it is lifted; what was refused is stored then, and nothing is doubled."""
    suspensions = FakeSuspensions()
    async with intakes(suspensions) as made:
        audit, telemetry = made[AUDIT], made[TELEMETRY]
        assert [r.outcome for r in await append(audit, produced("a", n=1))] == [STORED]
        (conflict,) = await append(audit, produced("a", n=2))
        assert (conflict.outcome, conflict.reason) == (CONFLICT, Reason.CONFLICTING_DUPLICATE)
        (told,) = suspensions.all()
        assert (told.producer, "id a: stored sha256" in told.detail) == (PRESS, True)
        for intake, category in ((audit, "audit"), (telemetry, "telemetry")):
            (refused,) = await append(intake, produced("b", category))
            assert (refused.outcome, refused.reason) == (INVALID, Reason.PRODUCER_SUSPENDED)
            (served,) = await append(intake, produced(f"b-{category}", category, producer=PUMP))
            assert served.outcome is STORED
        suspensions.lift(PRESS)
        assert [r.outcome for r in await append(audit, produced("b"), produced("a", n=1))] == [
            STORED,
            AppendOutcome.DUPLICATE,
        ]


async def test_a_stick_lifts_what_was_suspended_by_then(tmp_path: Path, boot_id: Path) -> None:
    """Once: whoever is suspended later stays so, also when the agent is started again; and a damaged word is none."""
    kept = FileSuspensions(tmp_path / "state", boot_id, tmp_path)
    document = tmp_path / STICK

    def asks(unix_ms: object, producers: object = ()) -> None:
        document.write_text(json.dumps({"state": "read", "lift": {"asked_unix_ms": unix_ms, "producers": producers}}))

    await kept.suspend(PRESS, "id a")
    since = kept.all()[0].since_unix_ms
    for damaged in ("", "[]", "{}", '{"lift": 1}', '{"lift": {"asked_unix_ms": 9}}'):
        document.write_text(damaged)
        kept.lift_asked()
    for unix_ms, producers in ((since - 1, []), (since, ["../x"]), (since, [str(PUMP)]), (since, 7), ("x", [])):
        asks(unix_ms, producers)
        kept.lift_asked()
    assert [each.producer for each in kept.all()] == [PRESS]
    asks(since, [])
    assert [each.producer for each in FileSuspensions(tmp_path / "state", boot_id).all()] == [PRESS]
    kept.lift_asked()
    assert kept.all() == FileSuspensions(tmp_path / "state", boot_id).all() == ()
    await trio.sleep(0.002)
    await kept.suspend(PUMP, "id b")
    again = FileSuspensions(tmp_path / "state", boot_id, tmp_path)
    again.lift_asked()
    assert [each.producer for each in again.all()] == [PUMP]


async def test_where_ids_are_played_with_nobody_is_suspended() -> None:
    """As in development environments: the conflict is refused, and the producer goes on."""
    async with intakes(NobodySuspended()) as made:
        await append(made[AUDIT], produced("a", n=1))
        assert [r.outcome for r in await append(made[AUDIT], produced("a", n=2))] == [CONFLICT]
        assert [r.outcome for r in await append(made[AUDIT], produced("b"))] == [STORED]


async def test_a_new_boot_begins_with_nobody(tmp_path: Path, boot_id: Path) -> None:
    """And a file that is no such file suspends nobody, and hinders nothing."""
    await FileSuspensions(tmp_path, boot_id).suspend(PRESS, "a")
    boot_id.write_text("boot-2\n")
    assert FileSuspensions(tmp_path, boot_id).of(PRESS) is None
    for text in ("", "[]", '{"boot_id": "boot-2", "suspended": [{"producer": "../x"}]}'):
        (tmp_path / FILE).write_text(text)
        assert list(FileSuspensions(tmp_path, boot_id).all()) == []


async def test_a_service_that_is_shown_nothing_of_the_kernel_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    """Its sandbox hides the file; systemd says the same by a variable. Without both it works, and forgets nothing."""
    nowhere = tmp_path / "hidden"
    monkeypatch.setenv(BOOT_ID_VARIABLE, "0f" * 16)
    await FileSuspensions(tmp_path, nowhere).suspend(PRESS, "a")
    assert FileSuspensions(tmp_path, nowhere).of(PRESS) is not None
    monkeypatch.setenv(BOOT_ID_VARIABLE, "1f" * 16)
    assert FileSuspensions(tmp_path, nowhere).of(PRESS) is None
    monkeypatch.delenv(BOOT_ID_VARIABLE)
    await FileSuspensions(tmp_path, nowhere).suspend(PRESS, "a")
    assert FileSuspensions(tmp_path, nowhere).of(PRESS) is not None
    unit = root / "image/mkosi.extra/usr/lib/systemd/system/bsfg-agent.service"
    assert f"\nEnvironment={BOOT_ID_VARIABLE}=%b\n" in unit.read_text("utf-8")


async def test_a_full_disk_does_not_let_it_in(tmp_path: Path, boot_id: Path) -> None:
    """It is suspended as long as the process lives."""
    (tmp_path / "state").write_text("no folder")
    port = FileSuspensions(tmp_path / "state", boot_id)
    await port.suspend(PRESS, "a")
    assert port.of(PRESS) is not None


async def test_the_command_line(tmp_path: Path) -> None:
    """Who looks sees whom and why, and lets them in."""
    port = FileSuspensions(tmp_path)
    await port.suspend(PRESS, "facts.audit, id a")
    runner = CliRunner()
    shown = runner.invoke(cli, ["producer", "list", "--state", str(tmp_path)])
    assert (shown.exit_code, "press-4  since " in shown.output, "id a" in shown.output) == (0, True, True)
    for asked in (True, False):
        done = runner.invoke(cli, ["producer", "lift", "press-4", "--state", str(tmp_path), "--output", "json"])
        assert json.loads(done.output) == {"producer": "press-4", "asked": asked}
        port.lift_asked()
    assert port.of(PRESS) is None
    listed = runner.invoke(cli, ["producer", "list", "--state", str(tmp_path)])
    assert listed.output == "nobody is suspended\n"
