# SPDX-License-Identifier: Apache-2.0
"""``bsfg credential`` as it is typed: in an environment's folder, and on a box whose broker includes what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import ExitCode
from appliance.brokers.config import AGENT_USER
from appliance.cli.main import cli
from appliance.dev.environment import Environment
from appliance.factlog.natskeys import UserCredentials
from appliance.keys.local.store import LocalKeys
from appliance.node.local import write_trust
from tests.brokers import AGENT_INBOX, as_client, eventually, process
from tests.doors import Door, door, entered, knock
from tests.zones import two_zones


def bsfg(*words: str, expect: int = 0) -> str:
    """Run a command; what it printed."""
    result = CliRunner().invoke(cli, ["credential", *words])
    assert result.exit_code == expect, result.output
    return result.output


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """Files of an environment that does not run."""
    return two_zones(tmp_path_factory.mktemp("zones"))


def place(environment: Environment) -> list[str]:
    """The options that name its plant."""
    return ["--dir", str(environment.layout.root), "--zone", "plant-a"]


def test_a_credential_from_its_first_day_to_its_last(environment: Environment) -> None:
    """Each command, for programs; the broker's configuration follows."""
    where = [*place(environment), "--output", "json"]
    files = environment.layout.zone(ZoneId("plant-a"))
    account = LocalKeys.open(files.local, ZoneId("plant-a")).account("press-4").public
    assert account not in files.facts_config.read_text()
    made = json.loads(bsfg("new", "press-4", "--role", "producer", "--category", "audit", *where))
    assert [Path(path).name for path in made["files"]] == ["press-4.creds", "press-4.token"]
    assert UserCredentials.load(Path(made["files"][0])).key.public == made["public"]
    assert account in files.facts_config.read_text()
    listed = {entry["name"]: entry for entry in json.loads(bsfg("list", *where))}
    assert listed["press-4"]["categories"] == ["audit"]
    assert {"agent", "sys"}.isdisjoint(listed)
    before = files.facts_config.read_text()
    bsfg("rotate", "press-4", "--expires", "never", "--keep-old", *where)
    assert files.facts_config.read_text() == before  # another key of the same account: the broker need not hear of it
    shown = json.loads(bsfg("show", "press-4", *where))
    assert [entry["ends"] == "never" for entry in shown["credentials"]] == [False, True]
    bsfg("revoke", "press-4", "--dry-run", *where)
    assert json.loads(bsfg("show", "press-4", *where)) == shown
    assert json.loads(bsfg("revoke", "press-4", "--yes", *where))["state"] == "revoked"
    assert json.loads(bsfg("show", "press-4", *where))["credentials"] == []
    assert account not in files.facts_config.read_text()
    assert CliRunner().invoke(cli, ["credential", "revoke", "reader", *where], input="n\n").exit_code != 0
    assert json.loads(bsfg("show", "reader", *where))["credentials"]


def test_a_certificate_is_made_once(environment: Environment) -> None:
    """For the names that are asked for, unless it is to be replaced."""
    where = [*place(environment), "--output", "json", "--name", "192.0.2.5", "--name", "box.example"]
    first: dict[str, Any] = json.loads(bsfg("certificate", *where))
    again = json.loads(bsfg("certificate", *where))
    assert (first["replaced"], again["replaced"]) == (True, False)
    before = Path(first["certificate"]).read_bytes()
    assert json.loads(bsfg("certificate", *where, "--rotate"))["replaced"]
    assert Path(first["certificate"]).read_bytes() != before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["new", "agent", "--role", "service"], ExitCode.USAGE, "a user of the appliance itself"),
        (["new", "x", "--role", "consumer", "--category", "audit"], ExitCode.USAGE, "reads every category"),
        (["new", "x", "--role", "producer", "--expires", "soon"], ExitCode.USAGE, "1 to 3650 days"),
        (["new", "x", "--role", "producer", "--expires", "0"], ExitCode.USAGE, "1 to 3650 days"),
        (["new", "reader", "--role", "producer"], ExitCode.FAILURE, "application_exists"),
        (["new", "Press 4", "--role", "producer"], ExitCode.FAILURE, "bad_name"),
        (["show", "nobody"], ExitCode.FAILURE, "unknown_application"),
        (["rotate", "nobody"], ExitCode.FAILURE, "unknown_application"),
        (["revoke", "nobody", "--yes"], ExitCode.FAILURE, "unknown_application"),
        (["certificate", "--name", "no name"], ExitCode.USAGE, "neither an address nor a DNS name"),
        (["list", "--root-file", "/dev/null"], ExitCode.USAGE, "goes with --local"),
        (["list", "--local", "elsewhere"], ExitCode.USAGE, "one of --dir"),
    ],
)
def test_what_is_wrong_is_said(environment: Environment, words: list[str], code: int, said: str) -> None:
    """With its exit code and a hint."""
    result = bsfg(*words, *place(environment), expect=code)
    assert said in result
    assert "hint: " in result


async def test_on_a_box_the_broker_includes_what_is_written(tmp_path: Path) -> None:
    """The sealed root lies elsewhere; a reload is all that a change needs."""
    at = door(tmp_path)
    folder, sealed = tmp_path / "local", tmp_path / "credential"
    (folder / "root.key").rename(sealed)
    box = ["--local", str(folder), "--root-file", str(sealed), "--zone", "plant-a"]
    write_trust(LocalKeys.open(folder, ZoneId("plant-a"), root_file=sealed))
    broker = process(tmp_path, "facts", included(at), at.listen)
    await broker.start()
    try:
        made = json.loads(
            bsfg("new", "press-4", "--role", "producer", "--out", str(tmp_path / "stick"), *box, "--output", "json")
        )
        assert "systemctl reload nats-facts" in made["next"]
        own = UserCredentials.load(tmp_path / "stick" / "press-4.creds")

        async def scenario() -> None:
            async with entered(at, AGENT_USER, inbox_prefix=AGENT_INBOX) as (agent, _):
                assert "PONG" not in knock(at, own.jwt, own)
                broker.reload()

                async def admitted() -> bool:
                    return knock(at, own.jwt, own) == "PONG"

                await eventually(admitted, 5)
                assert agent.is_connected
                bsfg("revoke", "press-4", "--yes", *box)
                broker.reload()

                async def refused() -> bool:
                    return "Authorization Violation" in knock(at, own.jwt, own)

                await eventually(refused, 5)
                assert agent.is_connected

        await as_client(scenario)
    finally:
        await broker.stop()


def included(at: Door) -> str:
    """The broker's configuration with the trust in a file of its own."""
    head = at.text().partition("operator:")[0]
    lines = [line for line in head.splitlines() if not line.startswith("system_account:")]
    return "\n".join([*lines, 'include "local/trust.conf"', ""])
