# SPDX-License-Identifier: Apache-2.0
"""The page: 24 lines of 79 characters in ASCII, whatever the box says; and golden pages for people to read."""

from __future__ import annotations

import json
import re
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.console.codes import DocState, Overall, Rank, Sign
from appliance.console.documents import Document, Values, neutral
from appliance.console.judgement import RULES, Finding, Judgement, judge
from appliance.console.model import Box, Looker, assemble
from appliance.console.network import Interface
from appliance.console.page import HEIGHT, WIDTH, ascii_text, moment, render, span
from appliance.console.report import EXIT_CODES
from appliance.console.system import Disk, Image, Machine
from appliance.console.texts import load
from tests.consoles import CASES, FINGERPRINT, GOLDEN, NOW, FixedClock, agent, golden, healthy, page, put, see, tell
from tests.terminals import Terminal

PRINTABLE = set(string.printable) - set("\t\n\r\x0b\x0c")


def check(lines: tuple[str, ...]) -> None:
    """It fits, and a terminal shows it as it is."""
    assert len(lines) == HEIGHT
    assert max(map(len, lines)) <= WIDTH
    assert set("".join(lines)) <= PRINTABLE
    terminal = Terminal()
    terminal.feed("\r\n".join(lines))
    assert terminal.lines == list(lines)
    assert terminal.scrolled == 0


# -- golden ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_golden_pages(tmp_path: Path, name: str) -> None:
    """``.venv/bin/python -m tests.consoles`` writes them anew; read what changed."""
    shown = page(tmp_path, name)
    assert shown == golden(name)
    check(tuple(shown.splitlines()))


def test_there_is_no_other_golden_page() -> None:
    """Nothing is left of cases that are gone."""
    assert {path.stem for path in GOLDEN.iterdir()} == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_page_answers_the_four_questions(tmp_path: Path, name: str) -> None:
    """What happened, what still works, what to do next; and since when, where anybody can know."""
    lines = page(tmp_path, name).splitlines()
    labels = {line[1:11].strip() for line in lines if line.startswith(" ") and line[1:2].isalpha()}
    assert {"Works", "Do"} <= labels
    assert lines[2].strip()
    if name in {"quarantined", "on_its_own", "catching_up", "working", "stopped_agent_dead", "starting"}:
        assert "since" in lines[2] + lines[3]


def test_the_fingerprint_is_there_while_somebody_needs_it(tmp_path: Path) -> None:
    """As the operator's commands take it: whole, and in one line."""
    for name, (state, _) in CASES.items():
        folder = tmp_path / name
        folder.mkdir()
        needed = state in {Overall.WAITING, Overall.NOT_ENROLLED, Overall.REFUSED}
        assert (f" {FINGERPRINT}\n" in page(folder, name)) is needed, name


def test_addresses_can_be_hidden(tmp_path: Path) -> None:
    """A site may not want them on a screen in a hall; whether there is a link is shown all the same."""
    healthy(tmp_path)
    tell(tmp_path, "site", state="accepted", zone="plant-a", show_addresses=False)
    box = Looker(tmp_path, clock=FixedClock()).look()
    shown = "\n".join(render(box, judge(box), load()))
    assert "192.0.2" not in shown
    assert "2001:db8" not in shown
    assert "10.10.20" not in shown
    assert "link up" in shown


def test_what_has_no_room_is_counted(tmp_path: Path) -> None:
    """The page says how much it leaves out; the command leaves out nothing."""
    box, judgement = see(tmp_path, "stopped_much_at_once")
    shown = "\n".join(render(box, judgement, load()))
    told = [f.code for f in judgement.findings if f"{f.code}:" in shown]
    assert told == [f.code for f in judgement.findings][: len(told)]
    assert f"and {len(judgement.findings) - len(told)} more" in shown
    whole = "\n".join(render(box, judgement, load(), whole=True))
    assert all(f"{f.code}:" in whole for f in judgement.findings)


@pytest.mark.parametrize("count", range(1, 9))
@pytest.mark.parametrize("name", ["waiting", "on_its_own", "not_configured", "stopped_much_at_once"])
def test_no_finding_is_shown_in_half(tmp_path: Path, name: str, count: int) -> None:
    """What is cut off is cut between findings: nobody is told what is wrong without what to do."""
    box, judgement = see(tmp_path, name)
    codes = [Sign.UPLINK_NO_ADDRESS, Reason.LOG_DAMAGED, Reason.LOG_LOST, Reason.TPM_ABSENT, *Sign][:count]
    judgement = replace(judgement, findings=tuple(Finding(code, Rank.ALARM) for code in codes))
    shown = list(render(box, judgement, load()))
    whole = list(render(box, judgement, load(), whole=True))
    more = [place for place, line in enumerate(shown) if line.strip().startswith("and ")]
    if more:
        assert shown[: more[0]] == whole[: more[0]]
        assert whole[more[0]].startswith((" Wrong", " Note"))
    else:
        assert [line for line in shown if line] == [line for line in whole if line]


def test_the_documentation_shows_real_pages(root: Path) -> None:
    """Its two samples are golden pages; every state and every sign is explained, with the right exit code."""
    text = (root / "docs/console.md").read_text("utf-8")
    samples = re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert samples == [golden(name) for name in ("on_its_own_no_cable", "quarantined")]
    rows = re.findall(r"^\| `(\w+)` \| ([A-Z].*?)\|.*\| (\d) \|$", text, re.MULTILINE)
    assert [Overall(state) for state, _, _ in rows] == [state for state, _ in RULES]
    for state, says, code in rows:
        assert int(code) == EXIT_CODES[Overall(state)]
        assert says.startswith(load().states[Overall(state)].headline.partition(": {what}")[0])
    table = text.partition("## Codes of the page")[2].partition("## ")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(Sign)


# -- the worst ---------------------------------------------------------------------------------------------------------

WIDE = st.text(st.characters(codec="utf-8"), max_size=100).map(neutral)
LONG = st.sampled_from(["x" * 400, "W" * 79, "\x1b[2J" * 90, "å" * 300, "plant-a", ""]).map(neutral) | WIDE
NUMBER = st.integers(-(1 << 61), 1 << 61)
MOMENT = st.none() | st.floats(0, 253_402_300_799, allow_nan=False)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Boxes that say the longest and the oddest."""

    def document(name: str) -> Document:
        values: dict[str, Any] = {
            field: draw(LONG)
            for field in ("state", "zone", "hub", "mode", "version", "kind", "fingerprint", "name", "problem")
        }
        values["mode"] = draw(st.sampled_from(["normal", "autonomous", "reconciling", values["mode"]]))
        values["state"] = draw(
            st.sampled_from(["accepted", "missing", "waiting", "calling", "refused", "not_enrolled", "latched", "x"])
        )
        problem = st.fixed_dictionaries({"reason": st.sampled_from([*Reason, *Sign, "x" * 40]), "detail": LONG})
        values |= {
            "version": draw(NUMBER),
            "mode_since_unix_ms": draw(NUMBER),
            "ready": draw(st.booleans()),
            "broker": {"connected": draw(st.booleans())},
            "crossings": [{"direction": "push", "lag": draw(NUMBER), "last_exchange_unix_ms": draw(NUMBER)}],
            "problems": draw(st.lists(problem, max_size=6)),
            "air_gapped": draw(st.booleans()),
        }
        state = draw(st.sampled_from(DocState))
        return Document(name, state, draw(MOMENT), draw(LONG), Values(values if state is not DocState.MISSING else {}))

    names = ("site", "keeper", "agent", "watchdog", "enrol", "x", "y")
    now = draw(st.sampled_from([0.0, NOW, 253_402_300_799.0, 1e18, -1e18]))
    box = assemble({name: document(name) for name in names}, now_unix_s=now, uptime_s=draw(st.floats(0, 1e12)))
    interface = st.builds(
        Interface,
        st.text("abc", min_size=1, max_size=15),
        st.sampled_from(["uplink", "plant", ""]),
        st.none() | st.booleans(),
        LONG,
        st.none(),
        st.lists(LONG, max_size=4).map(tuple),
        st.lists(LONG, max_size=2).map(tuple),
    )
    return replace(
        box,
        image=Image(draw(LONG), draw(LONG), draw(LONG), draw(st.none() | st.integers(0, 999))),
        machine=Machine(draw(LONG), draw(LONG), draw(st.sampled_from(["on", "off", "setup", ""]))),
        disk=draw(st.none() | st.builds(Disk, st.integers(0, 100), st.integers(0, 1 << 70))),
        interfaces=tuple(draw(st.lists(interface, max_size=5))),
    )


@given(boxes())
def test_any_box_fits(box: Box) -> None:
    """By whatever judgement follows from it."""
    judgement = judge(box)
    check(render(box, judgement, load()))
    for line in render(box, judgement, load(), whole=True):
        assert len(line) <= WIDTH
        assert set(line) <= PRINTABLE


FINDING = st.builds(
    Finding,
    st.sampled_from([*Reason, *Sign, "x" * 40]),
    st.sampled_from(Rank),
    LONG,
    st.just(("agent",)),
    st.integers(1, 1 << 60),
    MOMENT,
)


@given(boxes(), st.sampled_from(Overall), MOMENT, st.lists(FINDING, max_size=9))
def test_any_judgement_fits(box: Box, overall: Overall, since: float | None, findings: list[Finding]) -> None:
    """Also those that no rule gives today; the next step of the first finding is always there."""
    judgement = Judgement(overall, since, tuple(findings), (), tuple(load().abilities), ())
    lines = render(box, judgement, load())
    check(lines)
    assert any(line.startswith(" Do ") for line in lines)


def test_escape_sequences_do_not_reach_the_terminal(tmp_path: Path) -> None:
    """A service that was taken over cannot draw on the screen, nor type an answer into it."""
    healthy(tmp_path)
    evil = "\x1b[2J\x1b]0;title\x07\x9b6n\u202e\r\n\x1b[c"
    agent(tmp_path, zone=evil, version=evil, mode=evil)
    tell(tmp_path, "keeper", zone=evil, state=evil, kind=evil, problem=f"link_down: {evil}")
    tell(tmp_path, "site", state="accepted", zone=evil, hub=evil, refused={"reason": evil, "text": evil})
    tell(tmp_path, "evil", state=evil, problems=[{"reason": evil, "detail": evil}])
    put(tmp_path, "usr/lib/bsfg/image.json", json.dumps({"version": evil}))
    put(tmp_path, "etc/machine-id", evil)
    put(tmp_path, "sys/class/dmi/id/product_serial", evil)
    box = Looker(tmp_path, clock=FixedClock()).look()
    for whole in (False, True):
        lines = render(box, judge(box), load(), whole=whole)
        assert set("".join(lines)) <= PRINTABLE
    check(render(box, judge(box), load()))


def test_letters_of_other_languages() -> None:
    """What has an ASCII form gets it; the rest is marked."""
    assert ascii_text("Ærø, Ålesund, naïve café — 雪\x1b") == "Aero, Alesund, naive cafe - ??"


def test_figures_for_people() -> None:
    """In one or two units; a moment of another day has its date; what is no moment is none."""
    assert [span(s) for s in (-5, 0, 59, 60, 3600, 86_399, 90_000)] == [
        "0 s", "0 s", "59 s", "1 min", "1 h 0 min", "23 h 59 min", "1 d 1 h",
    ]  # fmt: skip
    assert moment(NOW) == "2026-12-01 14:03:05"
    assert moment(NOW - 60, NOW) == "14:02"
    assert moment(NOW - 86_400, NOW) == "2026-11-30 14:03"
    assert moment(1e300) == moment(float("nan")) == "?"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_command(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``bsfg box status`` tells the same, by text, JSON and exit code."""
    CASES[name][1](tmp_path)
    monkeypatch.setattr(
        "appliance.console.model.SystemClock", lambda: FixedClock(up=42.0 if name == "starting" else 9e4)
    )
    text = CliRunner().invoke(cli, ["box", "status", "--root", str(tmp_path)])
    told = CliRunner().invoke(cli, ["box", "status", "--root", str(tmp_path), "--output", "json"])
    document = json.loads(told.stdout)
    if name != "stopped_disk_full":  # the folder's disk is the machine's
        assert document["state"] == CASES[name][0]
    assert text.exit_code == told.exit_code == EXIT_CODES[Overall(document["state"])]
    assert all(f"{problem['reason']}:" in text.stdout for problem in document["problems"])
    assert "values" not in json.dumps(document["box"])


def test_the_command_on_an_empty_folder(tmp_path: Path) -> None:
    """It says what it does not know, and fails at nothing; a folder that is not there is a wrong option."""
    assert CliRunner().invoke(cli, ["box", "status", "--root", str(tmp_path)]).exit_code == 3
    assert CliRunner().invoke(cli, ["box", "status", "--root", str(tmp_path / "no")]).exit_code == 2
