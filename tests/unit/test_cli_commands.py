# SPDX-License-Identifier: Apache-2.0
"""The command line: usage, exit codes, errors with reason and hint, and what is printed of status and facts."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import appliance
from appliance.boundary.errors import DeniedError, RefusedError, UnavailableError
from appliance.boundary.modes import Mode
from appliance.boundary.reasons import ExitCode, Reason
from appliance.cli import output
from appliance.cli.main import COMMANDS, cli
from appliance.cli.printing import jsonl, row
from appliance.cli.publishing import Answer, TryAgain, Verdict, parse_answer
from appliance.cli.reading import StoredFact
from appliance.cli.status import status as status_command
from appliance.dev.layout import ENTERPRISE, NODE, PLANT, ZONES, KeysChoice, Layout
from appliance.dev.provision import open_environment, provision
from appliance.node.status import (
    BoundaryStatus,
    BrokerStatus,
    CertificateStatus,
    CrossingReport,
    Problem,
    StatusDocument,
    StoreStatus,
)


def run(*arguments: str | Path, stdin: str = "") -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], input=stdin)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A provisioned environment in which nothing runs."""
    layout = Layout.at(tmp_path_factory.mktemp("cli") / "d")
    provision(open_environment(layout, KeysChoice.SOFTWARE))
    return layout.root


def append(folder: Path, *arguments: str, stdin: str = "") -> Result:
    """``bsfg fact append`` with what it needs."""
    return run("fact", "append", "--dir", folder, "--zone", "plant-a", "--category", "audit", *arguments, stdin=stdin)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["dev"],
        ["dev", "up"],
        ["dev", "fault", "--dir", "x", "explode"],
        ["dev", "fault", "--dir", "x", "kill"],
        ["dev", "fault", "--dir", "x", "latch"],
        ["dev", "fault", "--dir", "x", "link-cut", "agent"],
        ["dev", "up", "--dir", "x", "--keys", "swtpm"],
        ["dev", "up", "--dir", "x", "--keys", "paper"],
        ["fact", "append", "--dir", "x"],
        ["fact", "read", "--dir", "x", "--zone", "plant-a", "--output", "xml"],
        ["status"],
        ["fact", "append", "--dir", "x", "--zone", "plant-a", "--category", "audit", "no-such-file.jsonl"],
    ],
)
def test_usage_errors_end_with_2(arguments: list[str], folder: Path) -> None:
    """And say how it is meant, on standard error."""
    result = run(*(str(folder) if argument == "x" else argument for argument in arguments))
    assert result.exit_code == ExitCode.USAGE
    assert "error: " in result.stderr or "Usage: " in result.stderr
    assert "Traceback" not in result.output


def test_on_a_box_status_is_that_of_the_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has to know which of two commands it is."""
    shown: list[tuple[Path, str]] = []
    monkeypatch.setattr("appliance.cli.status.BOX_STATUS", tmp_path)
    monkeypatch.setattr("appliance.cli.box.show", lambda root, output: shown.append((root, output)))
    assert (run("status").exit_code, run("status", "--output", "json").exit_code) == (0, 0)
    assert shown == [(Path("/"), "text"), (Path("/"), "json")]
    monkeypatch.setattr("appliance.cli.status.BOX_STATUS", tmp_path / "none")
    assert run("status").exit_code == ExitCode.USAGE


@pytest.mark.parametrize(
    "arguments",
    [
        ["--to", "mars"],
        ["--producer", "nobody"],
        ["--subject", "{"],
        ["--category", "gossip"],
        ["--zone", "plant-b"],
    ],
)
def test_values_that_do_not_exist_are_refused_with_a_hint(folder: Path, arguments: list[str]) -> None:
    """With the values that do, before anything is connected."""
    result = append(folder, *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert result.stderr.startswith("error: bad_input: ")
    assert "\nhint: " in result.stderr


def test_errors_can_be_read_by_programs(tmp_path: Path) -> None:
    """``--output json`` makes the error one JSON object; standard output stays empty."""
    result = run("status", "--dir", tmp_path, "--output", "json")
    assert result.exit_code == ExitCode.NOT_READY
    assert result.stdout == ""
    error = json.loads(result.stderr)["error"]
    assert error["reason"] == "bad_environment"
    assert error["exit_code"] == ExitCode.NOT_READY
    assert error["hint"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RefusedError(Reason.CONFLICTING_DUPLICATE), ExitCode.FAILURE),
        (RefusedError(Reason.BAD_INPUT), ExitCode.USAGE),
        (UnavailableError(Reason.BROKER_UNAVAILABLE), ExitCode.NOT_READY),
        (DeniedError(Reason.CATEGORY_DENIED), ExitCode.DENIED),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(), 0),
    ],
)
def test_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason has one; Ctrl-C and a closed pipe are quiet."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr("appliance.cli.status.status", failing)
    result = run("status")
    assert result.exit_code == code
    assert "Traceback" not in result.output
    quiet = isinstance(error, KeyboardInterrupt | BrokenPipeError)
    assert ("error: " in result.stderr) is not quiet


def test_without_a_supervisor(folder: Path) -> None:
    """Asking says so; ending is no failure."""
    for arguments in (["dev", "status"], ["dev", "fault", "link-cut"], ["dev", "fault", "kill", "agent"]):
        result = run(*arguments, "--dir", folder)
        assert result.exit_code == ExitCode.NOT_READY, arguments
        assert "error: not_running" in result.stderr
    assert run("dev", "fault", "--dir", folder, "kill", "somebody").exit_code == ExitCode.USAGE
    result = run("dev", "down", "--dir", folder)
    assert result.exit_code == ExitCode.OK
    assert result.stdout == "nothing ran\n"


def test_facts_without_a_broker(folder: Path) -> None:
    """Both commands give up after the time they were given."""
    for result in (
        append(folder, "--timeout", "0.3", "--subject", "s", "--predicate", "p", stdin="{}\n"),
        run("fact", "read", "--dir", folder, "--zone", "plant-a", "--timeout", "0.3"),
    ):
        assert result.exit_code == ExitCode.NOT_READY
        assert "error: broker_unavailable" in result.stderr


def test_version_and_help() -> None:
    """The version is the package's; every command explains itself."""
    assert run("--version").output == f"bsfg, version {appliance.__version__}\n"
    assert "Exit codes" in run("--help").output
    for command in COMMANDS:
        result = run(command, "--help")
        assert result.exit_code == ExitCode.OK
        assert result.output.startswith("Usage: ")
        assert command in run("--help").output


def test_help_is_quick(root: Path) -> None:
    """Nothing heavy is imported before it is needed."""
    program = (
        "import sys\nfrom appliance.cli.main import cli\n"
        "try: cli(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'trio', 'nats', 'cryptography', 'asyncio', 'h2', 'hypercorn', 'google'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], cwd=root, check=True, stdout=subprocess.DEVNULL)


def test_colours_are_for_terminals_that_want_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """NO_COLOR turns them off even there (https://no-color.org/)."""

    def coloured(environment: dict[str, str]) -> bool:
        result = CliRunner().invoke(cli, ["status", "--dir", "/nonexistent"], color=True, env=environment)
        return "\x1b[" in result.stderr

    assert coloured({"NO_COLOR": ""})
    assert not coloured({"NO_COLOR": "1"})


@pytest.mark.parametrize(
    ("payload", "answer"),
    [
        (b'{"stream":"FACTS_AUDIT","seq":7}', Answer(1, Verdict.STORED, 7)),
        (b'{"stream":"FACTS_AUDIT","seq":7,"duplicate":true}', Answer(1, Verdict.DUPLICATE, 7)),
        (
            b'{"error":{"code":409,"err_code":1,"description":"conflicting_duplicate: stored x"}}',
            Answer(1, Verdict.CONFLICT, 0, "conflicting_duplicate", "stored x"),
        ),
        (
            b'{"error":{"code":400,"err_code":1,"description":"too_deep: "}}',
            Answer(1, Verdict.REJECTED, 0, "too_deep", ""),
        ),
        (b'{"error":{"code":503,"description":"buffer_full: 1 GiB"}}', TryAgain(Reason.BUFFER_FULL, "1 GiB")),
        (b'{"error":{"code":503,"description":"unheard_of: x"}}', TryAgain(Reason.BROKER_UNAVAILABLE, "x")),
    ],
)
def test_answers_to_a_publish(payload: bytes, answer: Answer | TryAgain) -> None:
    """What the JetStream publish protocol says, in our words; 503 means: again."""
    assert parse_answer(1, payload) == answer


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"seq": null}', b'{"error": 1}', b'{"error": {"code": 400}}'])
def test_an_answer_that_is_none_means_again(payload: bytes) -> None:
    """Such as the broker's own for "nobody listens"."""
    answer = parse_answer(1, payload)
    assert isinstance(answer, TryAgain)
    assert answer.reason is Reason.BROKER_UNAVAILABLE


def test_stored_bytes_are_printed_as_they_are() -> None:
    """With the offset put in front, and not one byte of the fact written anew."""
    payload = b'{"envelope":{"produced_at_unix_ms":0},"fact":{"object_json":{"n":1e-7},"predicate":"p","subject":"s"}}'
    fact = StoredFact(9, 7, "facts.audit.plant-a.all.cli", payload)
    line = jsonl(fact)
    assert line == b'{"offset":7,' + payload[1:] + b"\n"
    assert list(json.loads(line)) == ["offset", "envelope", "fact"]
    assert row(fact).decode().split() == ["7", "audit", "1970-01-01", "00:00:00", "s", "p", '{"n":', "1e-07}"]
    far = replace(fact, payload=payload.replace(b":0}", b":9007199254740991}"))
    assert b"9007199254740991" in row(far)


def document(zone: str, **changes: object) -> StatusDocument:
    """A status document of a node that is well."""
    now = int(time.time() * 1000)
    base = StatusDocument(
        name=NODE[PLANT if zone == PLANT else ENTERPRISE],
        zone=zone,
        version="1",
        pid=1,
        ready=True,
        mode=Mode.NORMAL,
        mode_since_unix_ms=now - 65_000,
        mode_changes=0,
        updated_at_unix_ms=now,
        keys="software",
        broker=BrokerStatus(True, "2.15.1", True, 1),
        stores=(StoreStatus("audit", last_offset=41),),
        crossings=(CrossingReport("push audit", "push", "audit", "enterprise", lag=12, offset=29, reachable=True),),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def written(folder: Path) -> Path:
    """Both zones are well."""
    for zone in ZONES:
        document(zone).write(Layout.at(folder).zone(zone).status)
    return folder


def show(folder: Path, *arguments: str) -> Result:
    """``bsfg status``."""
    return CliRunner().invoke(status_command, ["--dir", str(folder), *arguments])


def test_status_of_both_zones(written: Path) -> None:
    """Mode and since when, broker, what waits in which direction; and the same for programs."""
    result = run("status", "--dir", written)
    assert result.exit_code == ExitCode.OK
    words = [line.split() for line in result.stdout.splitlines()]
    assert ["plant-a", "normal", "for", "65", "s"] in [line[:5] for line in words]
    assert ["plant-a", "enterprise", "audit", "12", "29"] in [line[:5] for line in words]
    assert "no problems" in result.stdout
    zones = json.loads(run("status", "--dir", written, "--output", "json").stdout)["zones"]
    assert zones["plant-a"]["crossings"][0]["lag"] == 12
    assert set(zones) == set(ZONES)


def test_a_pull_comes_from_the_peer(written: Path) -> None:
    """The dialling side reports both directions; a table for people says from and to."""
    crossing = CrossingReport("pull audit", "pull", "audit", "enterprise", lag=3, offset=5)
    document(PLANT, crossings=(crossing,)).write(Layout.at(written).zone(PLANT).status)
    words = [line.split() for line in run("status", "--dir", written).stdout.splitlines()]
    assert ["enterprise", "plant-a", "audit", "3", "5"] in [line[:5] for line in words]


def test_status_of_keys(written: Path) -> None:
    """What a zone can prove, how often, when it ends; and loudly, that a software TPM protects nothing."""
    boundary = BoundaryStatus(
        notice="SOFTWARE TPM: it protects nothing.",
        state="latched",
        time="hub_token",
        counter=7,
        renewals=3,
        handshakes_accepted=41,
        handshakes_refused={"bad_certificate": 2, "tls": 1},
    )
    certificates = (
        CertificateStatus("session", "session", "plant-a-bsfg", 5_000_000, 70, ""),
        CertificateStatus("device_ca", "device_ca", "plant-a-bsfg device CA", 5_000_000, -7200, "ended"),
        CertificateStatus("hub_ca", "hub_ca", "enterprise-bsfg hub CA", 5_000_000, None, ""),
    )
    found = document(PLANT, keys="swtpm", boundary=boundary, certificates=certificates)
    found.write(Layout.at(written).zone(PLANT).status)
    result = run("status", "--dir", written)
    words = [line.split() for line in result.stdout.splitlines()]
    keys = ["plant-a", "swtpm", "latched", "hub", "token", "7", "3", "41", "2", "bad_certificate,", "1", "tls"]
    assert keys in words
    assert ["plant-a", "session", "plant-a-bsfg", "in", "70", "s"] in words
    assert ["plant-a", "device_ca", "plant-a-bsfg", "device", "CA", "2", "h", "ago", "ended"] in words
    assert "boundary time is not known" in result.stdout
    assert result.stdout.count("SOFTWARE TPM: it protects nothing.") == 1
    zone = json.loads(run("status", "--dir", written, "--output", "json").stdout)["zones"]["plant-a"]
    assert zone["boundary"]["handshakes_refused"] == {"bad_certificate": 2, "tls": 1}
    assert zone["certificates"][1]["alarm"] == "ended"


def test_files_cannot_be_latched(folder: Path) -> None:
    """Where keys are files there is no TPM that could refuse one, and that is said."""
    for words in (["fault", "--dir", str(folder), "latch", "plant-a"], ["release", "--dir", str(folder), "plant-a"]):
        result = run("dev", *words)
        assert result.exit_code == ExitCode.NOT_READY
        assert "are files; there is no TPM and no keeper" in result.stderr
    assert run("dev", "fault", "--dir", folder, "latch", "mars").exit_code == ExitCode.USAGE
    unknown = run("dev", "fault", "--dir", folder, "kill", "plant-tpm")
    assert unknown.exit_code == ExitCode.USAGE  # this environment has none
    assert "plant-nats" in unknown.stderr


def test_status_of_problems(written: Path) -> None:
    """One cause in many places is one problem, with its hint."""
    problems = tuple(Problem("link_down", "refused", "local work goes on", f"push {c}") for c in "ab")
    document(PLANT, mode=Mode.AUTONOMOUS, problems=problems).write(Layout.at(written).zone(PLANT).status)
    result = run("status", "--dir", written)
    assert result.exit_code == ExitCode.OK  # a plant on its own is at work
    assert result.stdout.count("link_down") == 1
    assert "push a, push b" in result.stdout
    assert "hint: local work goes on" in result.stdout


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"ready": False}, ExitCode.NOT_READY, "starting"),
        ({"mode": Mode.QUARANTINED}, ExitCode.QUARANTINED, "quarantined"),
        ({"updated_at_unix_ms": 1_000_000}, ExitCode.NOT_READY, "last spoke"),
        ({"pid": 2**22 + 1}, ExitCode.NOT_READY, "has ended"),  # beyond every pid there can be
        ({"schema": 99}, ExitCode.NOT_READY, "schema 99"),
    ],
)
def test_status_that_is_not_well(written: Path, changes: dict[str, object], code: int, words: str) -> None:
    """A node that is starting, quarantined, silent, or of another version."""
    document(PLANT, **changes).write(Layout.at(written).zone(PLANT).status)
    result = run("status", "--dir", written)
    assert result.exit_code == code
    assert words in result.stdout
    assert "enterprise" in result.stdout
    assert ("start it with 'bsfg dev up" in result.stdout) == (words in ("last spoke", "has ended", "schema 99"))


def test_tables_and_ages() -> None:
    """Columns fit their widest cell, numbers stand right, colours take no room."""
    runner = CliRunner()

    @click.command()
    def table() -> None:
        rows = [[click.style("ab", fg="red"), "1"], ["c", "1000"]]
        output.print_table(["name", "n"], rows, right=frozenset(("n",)))

    assert runner.invoke(table).output == "name      n\nab        1\nc      1000\n"
    assert [output.age(s) for s in (-1, 119, 120, 7200, 200_000)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]


def test_progress_is_shown_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal in one line that is taken away again."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    meter = output.Meter(every_s=0.0)
    meter.show(lambda: "half")
    assert terminal.getvalue() == "\rhalf"
    meter.clear()
    assert terminal.getvalue() == "\rhalf\r    \r"
    quiet = output.Meter(every_s=1000.0)
    quiet.show(lambda: pytest.fail("too early"))
    assert os.environ.get("NO_COLOR", "") == ""
