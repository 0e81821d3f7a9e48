# SPDX-License-Identifier: Apache-2.0
"""The whole thing from the command line: two real zones on software TPMs, facts, faults, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest

from appliance.dev.boxes import enrolled_record
from appliance.dev.environment import Environment
from appliance.dev.layout import PLANT, ZONES, Layout, ProcessName
from appliance.dev.pids import ProcessIdentity, wait_until_gone
from appliance.dev.running import remembered
from tests.processes import run, running

ROOT = Path(__file__).resolve().parent.parent.parent
BSFG = [sys.executable, "-m", "appliance.cli"]
LONG = 120


def bsfg(*arguments: str | Path, stdin: str = "", expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would."""
    command = [*BSFG, *(str(argument) for argument in arguments)]
    outcome = run(command, cwd=ROOT, limit_s=LONG, text_in=stdin)
    assert outcome.returncode == expect, f"{command[3:]}: {outcome.returncode}\n{outcome.stdout}\n{outcome.stderr}"
    return outcome


class Zones:
    """The environment under test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.layout = Layout.at(folder)

    @property
    def document(self) -> dict[str, Any]:
        """``env.json``."""
        document: dict[str, Any] = json.loads(self.layout.document.read_text())
        return document

    def append(self, zone: str, category: str, lines: str, *options: str, expect: int = 0) -> dict[str, Any]:
        """``bsfg fact append`` of bare objects; the report."""
        outcome = bsfg(
            *("fact", "append", "--dir", self.folder, "--zone", zone, "--category", category, "--output", "json"),
            *("--subject", "item:{row}", "--predicate", "seen", *options),
            stdin=lines,
            expect=expect,
        )
        report: dict[str, Any] = json.loads(outcome.stdout)
        return report

    def read(self, zone: str, category: str, origin: str | None = None) -> list[str]:
        """``bsfg fact read``: the lines."""
        options = ["--origin", origin] if origin else []
        outcome = bsfg("fact", "read", "--dir", self.folder, "--zone", zone, "--category", category, *options)
        return outcome.stdout.splitlines()

    def crossed(self, category: str, source: str, target: str) -> list[str]:
        """What a zone has of another, once it has as much as there is; both must be the same bytes."""
        own = self.read(source, category)
        deadline = time.monotonic() + 60
        while len(received := self.read(target, category, source)) < len(own):
            assert time.monotonic() < deadline, f"{len(received)} of {len(own)} have crossed"
            time.sleep(0.1)
        assert received == own
        return received

    def fault(self, *arguments: str) -> None:
        """``bsfg dev fault``."""
        bsfg("dev", "fault", "--dir", self.folder, *arguments)

    def status(self) -> dict[str, Any]:
        """``bsfg status`` of both zones, ready or not."""
        command = [*BSFG, "status", "--dir", str(self.folder), "--output", "json"]
        outcome = run(command, cwd=ROOT, limit_s=LONG)
        zones: dict[str, Any] = json.loads(outcome.stdout)["zones"]
        return zones

    def all_ready(self) -> bool:
        """Whether every process does what it is for."""
        command = [*BSFG, "dev", "status", "--dir", str(self.folder)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=LONG, check=False).returncode == 0


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not become so in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zones]:
    """Two zones that are up; ended at the end whatever happens."""
    zones = Zones(tmp_path_factory.mktemp("zones") / "d")
    try:
        up = bsfg("dev", "up", "--dir", zones.folder, "--detach")
        assert "nats://127.0.0.1:" in up.stdout
        assert str(zones.layout.document) in up.stdout
        assert "keys: swtpm (software TPM: development only)" in up.stdout
        assert "plant-enrol is done" in up.stderr
        yield zones
    finally:
        if zones.layout.document.exists():
            bsfg("dev", "down", "--dir", zones.folder)


def rows(first: int, last: int) -> str:
    """Bare objects."""
    return "".join(f'{{"row": {n}, "weight": {n}.5}}\n' for n in range(first, last + 1))


def test_lines_cross_and_bad_ones_are_named(zones: Zones) -> None:
    """500 lines, three of them bad: the rest is stored and crosses, and appending it again changes nothing."""
    lines = rows(1, 500).splitlines(keepends=True)
    lines[99], lines[199] = '{"row": 100\n', '{"row": 200, "id": 12345678901234567890}\n'
    lines[299] = '{"row": 300, "row": 300}\n'  # only the zone's node can see this
    report = zones.append("plant-a", "audit", "".join(lines), expect=1)
    assert (report["read"], report["stored"], report["rejected"]) == (500, 497, 3)
    bad = {entry["line"]: entry["reason"] for entry in report["bad_lines"]}
    assert bad == {100: "malformed_json", 200: "number_range", 300: "malformed_json"}

    received = zones.crossed("audit", "plant-a", "enterprise")
    assert [json.loads(line)["offset"] for line in received] == list(range(1, 498))
    numbers = [json.loads(line)["fact"]["object_json"]["row"] for line in received]
    assert numbers == [n for n in range(1, 501) if n not in bad]
    assert list(json.loads(received[0])) == ["offset", "envelope", "fact"]

    again = zones.append("plant-a", "audit", "".join(lines), expect=1)
    assert (again["stored"], again["duplicate"], again["conflict"], again["rejected"]) == (0, 497, 0, 3)


def test_a_whole_message_and_its_forgery(zones: Zones) -> None:
    """The first is stored as it is; the same id with other content is a conflict, named with its line."""
    zones_named = {"from_zone": "enterprise-bsfg", "to_zone": "plant-a-bsfg"}
    envelope = {"message_id": "order-1", "produced_at_unix_ms": 5, "labels": {"a": "b"}, **zones_named}
    messages = [
        {"envelope": envelope, "fact": {"subject": "s", "predicate": "p", "object_json": content}}
        for content in ({}, {"forged": True})
    ]
    text = "".join(json.dumps(message) + "\n" for message in messages)
    report = zones.append("enterprise", "operational", text, "--producer", "orders", expect=1)
    assert (report["stored"], report["conflict"]) == (1, 1)
    assert report["bad_lines"][0]["line"] == 2
    assert report["bad_lines"][0]["reason"] == "conflicting_duplicate"
    (line,) = zones.crossed("operational", "enterprise", "plant-a")
    assert json.loads(line) == {"offset": 1, **messages[0]}


def test_what_the_zones_can_prove(zones: Zones) -> None:
    """Enrolled by the real dialogue: the hub has both on record, each keeper has its certificate and boundary time."""
    wait_for(lambda: all(zone["mode"] == "normal" for zone in zones.status().values()))
    for zone, status in zones.status().items():
        assert status["keys"] == "swtpm"
        assert status["boundary"]["notice"].startswith("SOFTWARE TPM")
        assert (status["boundary"]["state"], status["boundary"]["counter"]) == ("ready", 1)
        assert status["boundary"]["time"] == ("hub_token" if zone == "plant-a" else "wall_clock")
        assert status["boundary"]["handshakes_accepted"] >= 1
        assert {c["name"] for c in status["certificates"]} >= {"session", "device_ca", "hub_ca"}
        assert not any(c["alarm"] for c in status["certificates"])
    for zone in ZONES:
        record = enrolled_record(Environment.load(zones.folder), zone)
        assert "simulated TPM vendor" in record.vendor
        assert record.request.zone == zone
    assert zones.status()["enterprise"]["peers"][0]["attestation"] == "fresh"


def test_a_latched_box_gets_no_session_until_two_operators_release_it(zones: Zones) -> None:
    """Local work goes on; restarts of everything change nothing; the release does."""
    zones.fault("latch", "plant-a")
    keys = zones.document["zones"]["plant-a"]["keys"]["keeper"]
    sessions = Path(keys["session_dir"])
    wait_for(lambda: zones.status()["plant-a"]["boundary"]["state"] == "latched")
    for process in ("plant-tpm", "plant-keeper", "plant-control", "agent"):
        zones.fault("kill", process)
    wait_for(lambda: zones.status()["plant-a"].get("mode") == "autonomous")
    assert list(sessions.iterdir()) == []
    zones.append("plant-a", "audit", rows(700, 702))
    assert "plant-control" not in str(zones.read("enterprise", "audit", "plant-a"))
    processes = json.loads(bsfg("dev", "status", "--dir", zones.folder, "--output", "json", expect=3).stdout)
    waiting = {p["name"] for p in processes["processes"] if p["state"] == "waiting"}
    assert waiting == {"plant-control"}
    released = bsfg("dev", "release", "--dir", zones.folder, "plant-a")
    assert "plant-a is released" in released.stdout
    wait_for(zones.all_ready)
    assert len(zones.crossed("audit", "plant-a", "enterprise")) >= 3


def test_strict_stops_before_anything_passes_a_bad_line(zones: Zones) -> None:
    """What stands behind the bad line is not stored."""
    text = rows(9001, 9002) + "nonsense\n" + rows(9003, 9009)
    report = zones.append("enterprise", "audit", text, "--strict", expect=1)
    assert (report["read"], report["stored"], report["rejected"]) == (3, 2, 1)
    stored = [json.loads(line)["fact"]["object_json"]["row"] for line in zones.read("enterprise", "audit")]
    assert stored == [9001, 9002]


def test_everything_is_killed_under_load(zones: Zones) -> None:
    """Each process once, in mid-append and mid-transfer: every line is stored once, in order, in both zones."""
    count = 20_000
    command = [*BSFG, "fact", "append", "--dir", str(zones.folder), "--zone", "plant-a", "--category", "operational"]
    command += ["--subject", "item:{row}", "--predicate", "seen", "--output", "json"]
    pids = {name: entry["pid"] for name, entry in zones.document["processes"].items()}
    with running(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as appending:
        assert appending.stdin is not None
        assert appending.stdout is not None
        step = count // (len(ProcessName) + 1)
        for number, name in enumerate(ProcessName):
            appending.stdin.write(rows(number * step + 1, (number + 1) * step))
            appending.stdin.flush()
            zones.fault("kill", name)
        appending.stdin.write(rows(len(ProcessName) * step + 1, count))
        appending.stdin.close()
        report = json.loads(appending.stdout.read())
        assert appending.wait(LONG) == 0
    assert report["read"] == count
    assert report["stored"] + report["duplicate"] == count
    assert (report["conflict"], report["rejected"]) == (0, 0)
    received = zones.crossed("operational", "plant-a", "enterprise")
    assert [json.loads(line)["fact"]["object_json"]["row"] for line in received] == list(range(1, count + 1))
    wait_for(zones.all_ready)
    now = {name: entry["pid"] for name, entry in zones.document["processes"].items()}
    assert all(now[name] not in (pids[name], None) for name in ProcessName)


def test_a_follower_hears_what_comes_even_after_a_restart(zones: Zones) -> None:
    """It waits, goes on where it was when the broker is back, and ends quietly at Ctrl-C."""
    command = [*BSFG, "fact", "read", "--dir", str(zones.folder), "--zone", "plant-a", "--origin", "enterprise"]
    command += ["--category", "telemetry", "--follow"]
    with running(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        for first in (1, 4):
            zones.append("enterprise", "telemetry", rows(first, first + 2))
            heard = [json.loads(follower.stdout.readline())["fact"]["object_json"]["row"] for _ in range(3)]
            assert heard == [first, first + 1, first + 2]
            zones.fault("kill", "plant-nats")
        follower.send_signal(signal.SIGINT)
        errors = follower.stderr.read()
        assert (follower.wait(30), errors) == (130, "")
    wait_for(zones.all_ready)


def test_a_reader_that_has_enough_is_no_error(zones: Zones) -> None:
    """``| head`` closes the pipe."""
    command = [*BSFG, "fact", "read", "--dir", str(zones.folder), "--zone", "plant-a"]
    with running(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.readline()
        reader.stdout.close()
        assert reader.wait(30) == 0
        assert reader.stderr.read() == b""


def test_a_cut_link_is_seen_and_heals(zones: Zones) -> None:
    """The plant goes on alone, says so, and what it stored meanwhile crosses afterwards; both kinds of cut."""
    for how, row in (("reset", 1), ("blackhole", 2)):
        zones.fault("link-cut", "--how", how)
        wait_for(lambda: zones.status()["plant-a"]["mode"] == "autonomous")
        zones.append("plant-a", "telemetry", rows(row, row))
        assert len(zones.read("plant-a", "telemetry")) == row
        assert len(zones.read("enterprise", "telemetry", "plant-a")) == row - 1
        zones.fault("link-heal")
        wait_for(lambda: zones.status()["plant-a"]["mode"] == "normal")
        zones.crossed("telemetry", "plant-a", "enterprise")


def test_any_client_can_join_in(zones: Zones) -> None:
    """A stock client needs nothing but env.json to produce and to read."""
    broker = zones.document["zones"]["plant-a"]["facts_broker"]
    message = {
        "envelope": {"message_id": "x", "from_zone": "plant-a-bsfg", "to_zone": "all", "produced_at_unix_ms": 1},
        "fact": {"subject": "s", "predicate": "p", "object_json": {"by": "a stock client"}},
    }

    async def join() -> bytes:
        client = await nats.connect(broker["url"], user_credentials=broker["users"]["app"])
        stream = client.jetstream()
        await stream.publish("facts.telemetry.plant-a.all.app", json.dumps(message).encode())
        subscription = await stream.pull_subscribe("facts.telemetry.>", stream="FACTS_TELEMETRY")
        messages = await subscription.fetch(10, timeout=5)
        await client.close()
        return messages[-1].data

    assert json.loads(asyncio.run(join())) == message


def test_up_twice_is_refused(zones: Zones) -> None:
    """One environment in one folder; the one that runs is not disturbed."""
    for detach in (["--detach"], []):
        refused = bsfg("dev", "up", "--dir", zones.folder, *detach, expect=1)
        assert "error: already_running" in refused.stderr
    assert zones.all_ready()


def test_down_leaves_nothing_and_up_finds_everything(zones: Zones) -> None:
    """Even when the supervisor was killed; ports, keys and facts are the same afterwards."""
    before, facts = zones.document, zones.read("plant-a", "operational")
    tpm = Path(before["zones"]["plant-a"]["keys"]["tpm"]["state_dir"])
    record = enrolled_record(Environment.load(zones.folder), PLANT)
    running = remembered(zones.layout)
    assert set(running) == {*ProcessName, "supervisor"}
    assert running["supervisor"].signal(signal.SIGKILL)
    assert all(wait_until_gone(identity, 10) for identity in running.values())
    assert "error: not_running" in bsfg("dev", "status", "--dir", zones.folder, expect=3).stderr
    bsfg("dev", "up", "--dir", zones.folder, "--detach")
    assert zones.read("plant-a", "operational") == facts
    after, running = zones.document, remembered(zones.layout)
    assert before["zones"] == after["zones"]
    assert tpm.is_dir()
    assert enrolled_record(Environment.load(zones.folder), PLANT) == record  # the same box, not enrolled anew
    bsfg("dev", "down", "--dir", zones.folder)
    assert not any(identity.alive for identity in running.values())
    assert all(entry["pid"] is None for entry in zones.document["processes"].values())
    bsfg("dev", "down", "--dir", zones.folder, "--purge")
    assert not zones.folder.exists()


def test_keys_in_files(tmp_path: Path) -> None:
    """By choice: no TPM, no keeper, and the same facts. The choice is kept, and shown."""
    zones = Zones(tmp_path / "d")
    try:
        up = bsfg("dev", "up", "--dir", zones.folder, "--detach", "--keys", "software")
        assert "keys: software (files: development only)" in up.stdout
        assert zones.document["keys"] == "software"
        assert {zone["keys"] for zone in zones.status().values()} == {"software"}
        zones.append("plant-a", "audit", rows(1, 3))
        assert len(zones.crossed("audit", "plant-a", "enterprise")) == 3
        bsfg("dev", "down", "--dir", zones.folder)
        refused = bsfg("dev", "up", "--dir", zones.folder, "--detach", "--keys", "swtpm", expect=2)
        assert "was made with software keys and keeps them" in refused.stderr
    finally:
        bsfg("dev", "down", "--dir", zones.folder, "--purge")


def test_what_does_not_start_is_explained(tmp_path: Path) -> None:
    """The end of the log of what failed, the reason, exit code 3; and nothing is left running."""
    folder, layout = tmp_path / "d", Layout.at(tmp_path / "d")
    bsfg("dev", "up", "--dir", folder, "--detach", "--keys", "software")
    bsfg("dev", "down", "--dir", folder)
    document = json.loads(layout.document.read_text())
    document["categories"]["audit"]["max_bytes"] = 5
    layout.document.write_text(json.dumps(document))
    failed = bsfg("dev", "up", "--dir", folder, "--detach", expect=3)
    assert "error: child_failed" in failed.stderr
    assert "max_bytes is at least" in failed.stderr  # what the node said in its log
    assert "\nhint: " in failed.stderr
    assert remembered(layout) == {}
    assert "error: not_running" in bsfg("dev", "status", "--dir", folder, expect=3).stderr


def test_in_the_foreground_until_ctrl_c(tmp_path: Path) -> None:
    """It says when it is ready, and ends everything in good order."""
    folder, layout = tmp_path / "zwei Zonen'ü", Layout.at(tmp_path / "zwei Zonen'ü")
    command = [*BSFG, "dev", "up", "--dir", str(folder)]
    with running(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as foreground:
        assert foreground.stdout is not None
        while "Ctrl-C" not in (line := foreground.stdout.readline()):
            assert line, "it ended"
        identities = remembered(layout)
        foreground.send_signal(signal.SIGINT)
        assert foreground.wait(60) == 0
        assert "everything is ended" in foreground.stdout.read()
    assert set(identities) == {*ProcessName, "supervisor"}
    assert not any(ProcessIdentity.of(identity.pid) == identity for identity in identities.values())
