# SPDX-License-Identifier: Apache-2.0
"""What it means: each state and code has a text and a next step, causes hide their consequences, nothing is guessed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.modes import Mode
from appliance.boundary.reasons import ExitCode, Reason
from appliance.box.stick import StickState
from appliance.console import judgement
from appliance.console.codes import Ability, Overall, Rank, Sign
from appliance.console.judgement import (
    ABLE,
    EXPLAINS,
    GRACE_S,
    KEEPER_STATES,
    RULES,
    STICK_SHOWN_S,
    STICK_SIGNS,
    Judgement,
    judge,
)
from appliance.console.memory import Memory
from appliance.console.model import Box, Looker
from appliance.console.page import ascii_text, render
from appliance.console.ranks import RANKS, rank_of
from appliance.console.report import EXIT_CODES, report
from appliance.console.system import Disk
from appliance.console.texts import LANGUAGES, load
from appliance.keys.keeper import keeper as keeper_module
from appliance.keys.keeper.port import KeeperState
from appliance.node.status import BoundaryStatus, BrokerStatus, Problem
from appliance.watchdog.reporting import State
from appliance.watchdog.suspicions import SUSPICIONS, Code, Response
from tests import consoles
from tests.consoles import (
    BOOTED,
    CASES,
    EVIDENCE,
    NOW,
    FixedClock,
    agent,
    away,
    healthy,
    in_quarantine,
    keeper,
    ms,
    put,
    see,
    site,
    tell,
)

EVERY_CODE = (*Reason, *Sign)


def look(root: Path, up: float = BOOTED) -> tuple[Box, Judgement]:
    """A box and its judgement; its disk has room."""
    box = replace(Looker(root, clock=FixedClock(up=up)).look(), disk=Disk(31, 1))
    return box, judge(box)


def codes(root: Path, up: float = BOOTED) -> list[str]:
    """What is found."""
    return [finding.code for finding in look(root, up)[1].findings]


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", EVERY_CODE)
def test_every_code_has_a_text_and_a_next_step(language: str, code: str) -> None:
    """Short enough for the page, in ASCII, and the next step tells somebody to do something."""
    text = load(language).finding(code)
    for part in (text.what, text.do):
        assert part
        assert ascii_text(part) == part
    assert len(text.what) <= 110
    assert len(text.do) <= 130


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_and_ability_has_a_text(language: str) -> None:
    """All of them, and no others."""
    texts = load(language)
    assert set(texts.states) == set(Overall)
    assert set(texts.abilities) == set(Ability) == set(ABLE)
    for text in texts.states.values():
        assert text.headline
        assert text.do[0].isupper()
        assert text.do.endswith(".")
    assert set(texts.findings) <= set(EVERY_CODE)
    assert set(Sign) <= set(texts.findings), "what the page sees by itself is in no other catalogue"


def test_labels_are_all_used(root: Path) -> None:
    """And none is missing."""
    names = ("page", "steps", "turning", "texts/__init__")
    code = "".join((root / f"appliance/console/{name}.py").read_text() for name in names)
    used = set(re.findall(r"labels\[f?[\"'](\w+)", code)) | set(re.findall(r"\(\"(\w+)\", judgement\.", code))
    used |= {"note", "wrong", "secure_boot_on", "secure_boot_off", "secure_boot_setup", "secure_boot_"}
    used |= {"qr_scan_all", "dark_quarantined", "dark_released"}
    used -= {"dark_"}
    assert used == set(load().labels)


def test_services_are_not_told_to_type_on_a_box_without_a_shell() -> None:
    """What the page says itself is for hands; commands are for stations and hubs, and name where they are typed."""
    own = load().findings
    assert {code for code, text in own.items() if "'bsfg" in text.do or "systemctl" in text.do} == set()


def test_there_are_only_languages_that_exist() -> None:
    """The language is no path."""
    with pytest.raises(ValueError, match="no texts"):
        load("../en")


def test_codes_are_unambiguous() -> None:
    """No sign is a reason, no rank has another's code, every rank's codes exist, and unknown codes are not lost."""
    assert set(Sign) & set(Reason) == set()
    ranked = [code for known in RANKS.values() for code in known]
    assert len(ranked) == len(set(ranked))
    assert set(ranked) <= set(EVERY_CODE)
    assert set(Sign) - set(ranked) == {Sign.DISK_FILLS, Sign.PLANT_NO_CABLE, Sign.SOFTWARE_TPM, Sign.CLOCK_DIFFERS,
                                       Sign.SITE_ON_TRIAL, Sign.STICK_IGNORED, Sign.STICK_READING, Sign.STICK_READ,
                                       Sign.STICK_RESTARTING, Sign.STICK_WRITING, Sign.STICK_WRITTEN}  # fmt: skip
    assert rank_of("of_the_future") is Rank.CROSSING
    told = load().finding("of_the_future")
    assert "of_the_future" in told.what
    assert told.do
    assert load().finding(Reason.BAD_NAME).do == CATALOGUE[Reason.BAD_NAME].hint


def test_the_tables_are_whole() -> None:
    """Every state has a rule and an exit code; every state of keeper and watchdog is known."""
    assert [state for state, _ in RULES] == list(dict.fromkeys(state for state, _ in RULES))
    assert {state for state, _ in RULES} == set(Overall) == set(EXIT_CODES)
    assert set(KEEPER_STATES) | {"ready"} == set(KeeperState)
    assert {"checking", "open", "closed", "quarantined", "in_doubt", "released"} == set(State)
    assert set(EXPLAINS) <= set(EVERY_CODE)
    assert {code for hidden in EXPLAINS.values() for code in hidden} <= set(EVERY_CODE)
    assert keeper_module.NOT_ASKED == judgement.NOT_ASKED
    for code, hidden in EXPLAINS.items():
        assert code not in hidden
        for other in hidden & set(EXPLAINS):
            assert code not in EXPLAINS[other], f"{code} and {other} would hide each other"


# -- states ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_each_case_is_in_its_state(tmp_path: Path, name: str) -> None:
    """And what it says fits together."""
    box, found = see(tmp_path, name)
    assert found.overall is CASES[name][0]
    assert sorted((*found.works, *found.stopped, *found.unknown)) == sorted(Ability)
    assert [finding.rank for finding in found.findings] == sorted(finding.rank for finding in found.findings)
    told = report(box, found, load())
    assert told["state"] == found.overall
    assert told["do"]
    assert {problem["reason"] for problem in told["problems"]} == {finding.code for finding in found.findings}


def test_every_state_has_a_case() -> None:
    """The golden pages show all of them."""
    assert {state for state, _ in CASES.values()} == set(Overall)


def test_no_alarm_while_all_is_well(tmp_path: Path) -> None:
    """The healthy box has nothing to say."""
    healthy(tmp_path)
    _, found = look(tmp_path)
    assert (found.overall, found.findings, found.works) == (Overall.WORKING, (), tuple(Ability))


@pytest.mark.parametrize(
    ("name", "sign", "state"),
    [
        ("agent", Sign.AGENT_SILENT, Overall.STOPPED),
        ("keeper", Sign.KEEPER_SILENT, Overall.TROUBLE),
        ("watchdog", Sign.WATCHDOG_SILENT, Overall.TROUBLE),
        ("site", Sign.SITE_SILENT, Overall.TROUBLE),
    ],
)
def test_silence(tmp_path: Path, name: str, sign: Sign, state: Overall) -> None:
    """A service that is not there is missed, but not while the box starts; one that stopped is missed since then."""
    healthy(tmp_path)
    path = tmp_path / f"run/bsfg/status/{name}.json"
    path.unlink()
    _, found = look(tmp_path)
    assert (found.overall, [finding.code for finding in found.findings]) == (state, [sign])
    _, early = look(tmp_path, up=GRACE_S - 1)
    assert (early.overall, early.findings) == (Overall.STARTING, ())
    if name != "site":
        tell(tmp_path, name, ago_s=500, state="open", ready=True)
        _, found = look(tmp_path)
        assert found.findings[0].since_unix_s == NOW - 500
    put(tmp_path, f"run/bsfg/status/{name}.json", b"\xff")
    _, found = look(tmp_path)
    assert found.overall is (Overall.STOPPED if name == "agent" else Overall.TROUBLE)
    assert Sign.DOCUMENT_DAMAGED in [finding.code for finding in found.findings]


@pytest.mark.parametrize("who", ["keeper", "watchdog", "agent"])
def test_quarantine_is_told_by_any_one(tmp_path: Path, who: str) -> None:
    """Keeper, watchdog or agent: one is enough, and local work goes on."""
    healthy(tmp_path)
    if who == "keeper":
        keeper(tmp_path, KeeperState.LATCHED)
    elif who == "watchdog":
        tell(tmp_path, "watchdog", state="quarantined", ago_s=900)  # it may have stopped since
    else:
        agent(tmp_path, mode="quarantined")
    _, found = look(tmp_path)
    assert found.overall is Overall.QUARANTINED
    assert found.works == (Ability.PRODUCE, Ability.CONSUME)
    assert EXIT_CODES[found.overall] is ExitCode.QUARANTINED


@pytest.mark.parametrize("code", [code for code in Code if SUSPICIONS[code].quarantines])
def test_whoever_reads_only_this_knows_why_and_what_to_do(tmp_path: Path, code: Code) -> None:
    """For everything that quarantines: what happened, since when, what still works, what to do, in the table's words.

    What follows from the quarantine is not told beside it; and a code that the page has for another thing too is told
    as what it is here.
    """
    healthy(tmp_path)
    keeper(tmp_path, KeeperState.LATCHED, "key_latched: counter 2")
    agent(tmp_path, **away(1500))
    in_quarantine(tmp_path, code, "what exactly")
    box, found = look(tmp_path)
    told = report(box, found, load())
    assert (told["state"], told["since_unix_ms"]) == ("quarantined", ms(1500))
    assert (told["works"], told["stopped"]) == (["produce", "consume"], ["send", "receive"])
    first, *others = told["problems"]
    words = SUSPICIONS[code]
    assert (first["reason"], first["what"], first["do"]) == (code, words.cause, words.next_step)
    assert (first["detail"], first["count"]) == ("what exactly", 1)
    assert {each["reason"] for each in others} <= {"probe_blind"}
    shown = " ".join(" ".join(render(box, found, load(), whole=True)).split())
    assert " ".join(f"{code}: {words.cause} (what exactly)".split()) in shown
    assert EVIDENCE in shown


def test_notes_of_the_watchdog_are_told_in_its_words(tmp_path: Path) -> None:
    """And no state changes by them."""
    healthy(tmp_path)
    for code in (
        each for each in Code if SUSPICIONS[each].response is Response.NOTE and str(each) not in set(map(str, Sign))
    ):
        tell(tmp_path, "watchdog", state="open", problems=[{"reason": code, "detail": "x", "hint": "", "where": ""}])
        box, found = look(tmp_path)
        (finding,) = report(box, found, load())["problems"]
        assert (finding["what"], finding["do"]) == (SUSPICIONS[code].cause, SUSPICIONS[code].next_step)
        assert (found.overall, finding["rank"]) == (Overall.WORKING, "note")


def test_a_cause_hides_what_follows_from_it(tmp_path: Path) -> None:
    """A pulled cable is a pulled cable, and no trouble with time, hub and address; plugged in, the rest is told."""
    healthy(tmp_path)
    keeper(tmp_path, KeeperState.TIME_UNKNOWN)
    agent(tmp_path, **away())
    consoles.network(tmp_path, uplink=False, addresses=False)
    assert codes(tmp_path) == [Sign.UPLINK_NO_CABLE]
    consoles.network(tmp_path, addresses=False)
    assert codes(tmp_path) == [Sign.UPLINK_NO_ADDRESS]
    consoles.network(tmp_path)
    assert codes(tmp_path) == [Reason.LINK_DOWN]
    agent(tmp_path)
    assert codes(tmp_path) == [Reason.TIME_UNKNOWN]


@pytest.mark.parametrize("state", StickState)
def test_what_came_of_a_stick_is_told_for_a_while(tmp_path: Path, state: StickState) -> None:
    """Whatever is said of it; later nobody stands there any more. The box itself is as well as ever."""
    healthy(tmp_path)
    tell(tmp_path, "stick", 300, state=state, detail="bsfg/site.toml on the USB stick: known")
    box, found = look(tmp_path)
    assert [finding.code for finding in found.findings] == [STICK_SIGNS[state]]
    assert found.findings[0].detail == "bsfg/site.toml on the USB stick: known"
    assert found.overall is Overall.WORKING
    assert box.others == ()
    tell(tmp_path, "stick", STICK_SHOWN_S + 1, state=state)
    assert codes(tmp_path) == []


def test_an_uplink_that_is_not_there(tmp_path: Path) -> None:
    """A card that was pulled; not asked for on an air-gapped box, nor before there is a configuration.

    That the watchdog cannot open what is not there is no fault of the firewall.
    """
    healthy(tmp_path)
    for file in (tmp_path / "sys/class/net/uplink0").rglob("*"):
        if file.is_file():
            file.unlink()
    for folder in ("sys/class/net/uplink0/device", "sys/class/net/uplink0"):
        (tmp_path / folder).rmdir()
    assert codes(tmp_path) == [Sign.UPLINK_ABSENT]
    fault = {"reason": Reason.FIREWALL_FAULT, "detail": "no judge of frames on uplink0"}
    tell(tmp_path, "watchdog", state="checking", problems=[fault])
    assert codes(tmp_path) == [Sign.UPLINK_ABSENT]
    tell(tmp_path, "watchdog", state="open")
    assert judge(replace(look(tmp_path)[0], interfaces=())).findings == (), "a box whose network cannot be seen"
    site(tmp_path, air_gapped=True)
    assert codes(tmp_path) == []
    tell(tmp_path, "watchdog", state="checking", problems=[fault])
    assert codes(tmp_path) == []
    tell(tmp_path, "site", state="missing")
    assert look(tmp_path)[1].overall is Overall.NOT_CONFIGURED


UPLINK = {"role": "uplink", "device": "uplink0", "by": "mac", "value": "02:00:5e:10:00:01"}
PLANT = {"role": "plant", "device": "plant0", "by": "driver", "value": "igb"}


def test_ports_that_the_site_names(tmp_path: Path) -> None:
    """One that is not there is named beside those that are; a driver that two have is not good enough."""
    healthy(tmp_path)
    site(tmp_path, ports=[UPLINK, PLANT])
    assert codes(tmp_path) == []
    driver = tmp_path / "drivers/igb"
    driver.mkdir(parents=True)
    for name in ("uplink0", "plant0"):
        (tmp_path / f"sys/class/net/{name}/device/driver").symlink_to(driver)
    (finding,) = look(tmp_path)[1].findings
    assert (finding.code, finding.detail) == (
        Reason.BAD_SITE,
        "driver igb is of several ports: uplink0, plant0; name one by its mac",
    )
    site(tmp_path, ports=[UPLINK, {**PLANT, "by": "mac", "device": "plant1", "value": "02:00:5e:10:00:09"}])
    (finding,) = look(tmp_path)[1].findings
    there = "uplink0 02:00:5e:10:00:01 igb, plant0 02:00:5e:10:00:02 igb"
    assert finding.code == Sign.PLANT_ABSENT
    assert finding.detail == f"no port has mac 02:00:5e:10:00:09; there are: {there}"
    assert look(tmp_path)[1].overall is Overall.TROUBLE


def test_while_it_starts_ports_may_come(tmp_path: Path) -> None:
    """The kernel finds them one by one; a box that starts is in no trouble because of that."""
    healthy(tmp_path)
    (tmp_path / "run/bsfg/status/agent.json").unlink()
    site(tmp_path, ports=[{**UPLINK, "device": "uplink1"}])
    clock = FixedClock(up=20.0)
    box = replace(Looker(tmp_path, clock=clock).look(), disk=Disk(31, 1))  # not that of this machine
    assert (judge(box).overall, judge(box).findings) == (Overall.STARTING, ())
    site(tmp_path, ports=[UPLINK])
    consoles.network(tmp_path, uplink=False, addresses=False)
    (tmp_path / "sys/class/net/plant0/carrier").unlink()
    box = replace(Looker(tmp_path, clock=clock).look(), disk=Disk(31, 1))  # not that of this machine
    assert (judge(box).overall, judge(box).findings) == (Overall.STARTING, ())


def test_a_small_disk_is_a_note(tmp_path: Path) -> None:
    """Buffers that were cut to fit hinder nobody now."""
    healthy(tmp_path)
    site(tmp_path, problems=[{"reason": "disk_small", "detail": "the disk has room for 12%"}])
    judgement = look(tmp_path)[1]
    assert (judgement.overall, codes(tmp_path)) == (Overall.WORKING, [Reason.DISK_SMALL])
    assert judgement.findings[0].rank is Rank.NOTE


@pytest.mark.parametrize(
    ("used", "sign"), [(84, None), (85, Sign.DISK_FILLS), (96, Sign.DISK_FILLS), (97, Sign.DISK_FULL)]
)
def test_the_disk(tmp_path: Path, used: int, sign: Sign | None) -> None:
    """It is told before it is full; only a full one stops producers."""
    healthy(tmp_path)
    box = replace(look(tmp_path)[0], disk=Disk(used, 1))
    found = judge(box)
    assert [finding.code for finding in found.findings] == ([sign] if sign else [])
    assert (Ability.PRODUCE in found.works) is (sign is not Sign.DISK_FULL)


@pytest.mark.parametrize("state", ["off", "setup"])
def test_secure_boot_off_is_an_alarm(tmp_path: Path, state: str) -> None:
    """It is the cause of a TPM that refuses, and is told in its place."""
    healthy(tmp_path)
    consoles.variable(tmp_path, "SecureBoot", b"\0" if state == "off" else b"\1")
    consoles.variable(tmp_path, "SetupMode", b"\1" if state == "setup" else b"\0")
    keeper(tmp_path, KeeperState.TPM_REFUSED, "tpm_refused: PCR 7")
    assert codes(tmp_path) == [Sign.SECURE_BOOT_OFF]
    assert look(tmp_path)[1].overall is Overall.TROUBLE


def test_the_other_sides_broker_does_not_stop_local_work(tmp_path: Path) -> None:
    """What a push hears from the hub is not what the box's own broker says."""
    healthy(tmp_path)
    agent(tmp_path, problems=(Problem("broker_unavailable", "at the hub", "", "push audit"),))
    _, found = look(tmp_path)
    assert (found.overall, found.findings[0].rank) == (Overall.WORKING, Rank.CROSSING)
    agent(tmp_path, problems=(Problem("broker_unavailable", "here", "", "broker"),), broker=BrokerStatus())
    _, found = look(tmp_path)
    assert (found.overall, found.stopped[:2]) == (Overall.STOPPED, (Ability.PRODUCE, Ability.CONSUME))


def test_a_clock_that_differs(tmp_path: Path) -> None:
    """From the hub's, by more than two minutes; it is a note."""
    healthy(tmp_path)
    boundary = BoundaryStatus(state="ready", time="hub_token", unix_ms=ms(1 + 3600))
    agent(tmp_path, boundary=boundary)
    _, found = look(tmp_path)
    assert [(f.code, f.detail, f.rank) for f in found.findings] == [(Sign.CLOCK_DIFFERS, "3600 s ahead", Rank.NOTE)]
    agent(tmp_path, boundary=replace(boundary, unix_ms=ms(1 - 60)))
    assert codes(tmp_path) == []


def test_one_cause_in_many_places_is_told_once(tmp_path: Path) -> None:
    """With how often, and the first particulars."""
    healthy(tmp_path)
    tell(tmp_path, "watchdog", state="open", problems=[{"reason": "log_damaged", "detail": "scrub"}])
    agent(tmp_path, problems=tuple(Problem("log_damaged", f"audit {n}", "", "audit") for n in range(3)))
    (finding,) = look(tmp_path)[1].findings
    assert (finding.detail, finding.count, finding.sources) == ("audit 0", 4, ("agent", "watchdog"))


def test_services_of_the_future_are_shown(tmp_path: Path) -> None:
    """Documents and codes that this program does not know."""
    healthy(tmp_path)
    tell(tmp_path, "control", state="ready", problems=[{"reason": "of_the_future", "detail": "x"}])
    box, found = look(tmp_path)
    assert [document.name for document in box.others] == ["control"]
    assert [finding.code for finding in found.findings] == ["of_the_future"]


def test_an_unknown_mode_claims_nothing(tmp_path: Path) -> None:
    """Facts are not said to cross unless the agent says a mode in which they do."""
    healthy(tmp_path)
    for mode in ("", "dancing", "autonomous"):
        agent(tmp_path, mode=mode)
        _, found = look(tmp_path)
        assert found.overall is Overall.ON_ITS_OWN
        assert found.stopped == (Ability.SEND, Ability.RECEIVE)
    assert set(Mode) >= {"normal", "autonomous", "reconciling", "quarantined"}


def test_figures_that_cannot_be(tmp_path: Path) -> None:
    """Crossings that say no number, a negative one, or a text count as none; a moment of never is never."""
    healthy(tmp_path)
    odd: list[object] = [{}, {"lag": -5}, {"lag": "x"}, {"lag": None}, {"lag": 1 << 80}, {"lag": 7}, 5, None]
    crossings = [
        {"direction": "push", "last_exchange_unix_ms": 0, **each} if isinstance(each, dict) else each for each in odd
    ]
    tell(tmp_path, "agent", ready=True, mode="normal", broker={"connected": True}, crossings=crossings)
    box, _ = look(tmp_path)
    assert (box.node.to_send, box.node.to_receive, box.node.last_exchange_unix_s) == (7, 0, None)


def test_a_keeper_in_its_first_moment_is_no_fault(tmp_path: Path) -> None:
    """It has not asked its TPM yet."""
    healthy(tmp_path)
    keeper(tmp_path, KeeperState.TPM_ABSENT, f"tpm_absent: {judgement.NOT_ASKED}")
    assert codes(tmp_path) == []
    keeper(tmp_path, KeeperState.TPM_ABSENT, "tpm_absent: no such device")
    assert codes(tmp_path) == [Reason.TPM_ABSENT]
    keeper(tmp_path, KeeperState.TPM_ABSENT)
    assert codes(tmp_path) == [Reason.TPM_ABSENT]


# -- since when --------------------------------------------------------------------------------------------------------


def test_the_page_remembers_since_when(tmp_path: Path) -> None:
    """Where nobody says it; what its first look saw has no beginning; a wall clock that steps changes nothing."""
    healthy(tmp_path)
    clock, memory = FixedClock(), Memory()
    looker = Looker(tmp_path, clock=clock)

    def now() -> Judgement:
        box = replace(looker.look(), disk=Disk(31, 1))
        return memory.complete(box, judge(box))

    consoles.variable(tmp_path, "SecureBoot", b"\0")
    assert now().findings[0].since_unix_s is None
    tell(tmp_path, "extra", problems=[{"reason": "disk_failed"}])
    clock.pass_s(2)
    first = {finding.code: finding.since_unix_s for finding in now().findings}
    assert first == {Sign.SECURE_BOOT_OFF: None, Reason.DISK_FAILED: NOW + 2}
    clock.pass_s(3)
    clock.now += 3600
    tell(tmp_path, "extra", pid=8, problems=[{"reason": "disk_failed"}])
    again = {finding.code: finding.since_unix_s for finding in now().findings}
    assert again[Reason.DISK_FAILED] == pytest.approx(NOW + 2 + 3600)
    assert now().since_unix_s == pytest.approx(NOW + 2 + 3600)
