# SPDX-License-Identifier: Apache-2.0
"""The judge is judged: good histories pass, every damaged one is flagged, and no check can be taken away unnoticed."""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.judge import (
    Append,
    Event,
    Fault,
    HistoryError,
    Info,
    Invariant,
    Ok,
    Quiet,
    Read,
    Recorder,
    SnapshotBegin,
    SnapshotEnd,
    Topology,
    check,
    content_digest,
    decode,
    dump,
    encode,
    load,
)
from tests.judge import __main__ as command
from tests.judge.damages import DAMAGES, Damage
from tests.judge.events import EVENT_TYPES
from tests.judge.samples import HUB, OPS, PLANT, THREE_ZONES, TWO_ZONES, World, conflict_flood, long_history
from tests.judge.shapes import SHAPES, wander

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", SHAPES)
def test_good_history_passes(name: str) -> None:
    """Every shape of a run that kept its promises, with nothing left unproven."""
    verdict = check(SHAPES[name]())
    assert verdict.violations == ()
    assert verdict.unproven == ()


def test_random_good_histories_pass() -> None:
    """The judge raises no false alarm."""
    for seed in range(150):
        verdict = check(wander(seed, 120, THREE_ZONES if seed % 2 else TWO_ZONES))
        assert verdict.violations == (), seed


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.name)
def test_damage_is_flagged(damage: Damage) -> None:
    """Each damage is flagged under the invariant it breaks, with the events that show it."""
    events = damage.history()
    verdict = check(events)
    assert damage.breaks in verdict.flagged
    for violation in verdict.violations:
        assert violation.text
        assert all(1 <= line <= len(events) for line in violation.lines)


def test_there_are_many_different_damages() -> None:
    """No damage stands twice under two names, and no invariant goes without."""
    assert len({damage.name for damage in DAMAGES}) == len(DAMAGES) >= 25
    assert len({dump(damage.history()) for damage in DAMAGES}) == len(DAMAGES)
    assert {damage.breaks for damage in DAMAGES} == set(Invariant)


@pytest.mark.parametrize("invariant", Invariant)
def test_no_check_can_be_taken_away(invariant: Invariant) -> None:
    """For each check there is a damage that only it notices."""
    alone = [d for d in DAMAGES if d.breaks is invariant and check(d.history(), without={invariant}).ok]
    assert alone


def _final_reads(events: list[Event]) -> list[int]:
    """The places of all reads after the last quiet event."""
    quiet = max(i for i, event in enumerate(events) if isinstance(event, Quiet))
    return [i for i, event in enumerate(events) if i > quiet and isinstance(event, Read)]


def _drop(events: list[Event], index: int) -> None:
    del events[index]


def _flip(events: list[Event], index: int) -> None:
    read = events[index]
    assert isinstance(read, Read)
    events[index] = dataclasses.replace(read, content=content_digest(b"flipped"))


def _double(events: list[Event], index: int) -> None:
    read = events[index]
    assert isinstance(read, Read)
    events.insert(index + 1, dataclasses.replace(read, seq=read.seq + 1))


def _shift(events: list[Event], index: int) -> None:
    read = events[index]
    assert isinstance(read, Read)
    events[index] = dataclasses.replace(read, offset=read.offset + 1)


@pytest.mark.parametrize("harm", [_drop, _flip, _double, _shift])
def test_any_final_read_damaged_is_flagged(harm: Callable[[list[Event], int], None]) -> None:
    """Not only the hand-picked ones: at random places of random histories too."""
    for seed in range(60):
        events = wander(seed, 60, THREE_ZONES if seed % 2 else TWO_ZONES)
        harm(events, random.Random(seed).choice(_final_reads(events)))
        assert not check(events).ok, seed


def test_counts() -> None:
    """The numbers are those of the history."""
    counts = check(SHAPES["conflicts"]()).counts
    assert (counts.appended, counts.acked, counts.info, counts.facts) == (10, 3, 1, 4)
    assert counts.refused == {"buffer_full": 1, "conflicting_duplicate": 5}
    assert counts.read == {HUB: 4, PLANT: 4}
    assert (counts.lost, counts.doubled, counts.snapshots, counts.confirms) == (0, 0, 2, 1)
    assert check(SHAPES["duplicates"]()).counts.duplicates == 4
    poisoned = check(SHAPES["poisoned"]()).counts
    assert (poisoned.dead_letters, poisoned.faults, poisoned.gaps) == (2, 1, 0)
    wiped = check(SHAPES["plant_wiped"]()).counts
    assert (wiped.disasters, wiped.gaps) == (1, 2)


def test_every_loss_is_counted_but_not_every_one_is_kept() -> None:
    """A broken run stays readable."""
    world = World()
    world.send(PLANT, OPS, *(f"a{n}" for n in range(300)), to=PLANT)
    events = [event for event in world.finish() if not isinstance(event, Read)]
    verdict = check(events, keep=10)
    assert (verdict.counts.lost, len(verdict.violations)) == (300, 10)


def test_what_is_not_shown_is_said() -> None:
    """A history that could not show a violation must not look like a proof."""
    world = World()
    world.send(PLANT, OPS, "a1")
    verdict = check(world.events)
    assert verdict.ok
    assert any("does not end quiet" in text for text in verdict.unproven)
    unread = check([event for event in SHAPES["plain"]() if not hasattr(event, "snapshot")])
    assert any(text.startswith(f"{PLANT}'s log of {PLANT}") for text in unread.unproven)
    assert "no fact was sent" in check(World().events).unproven


def test_a_call_or_fault_ends_the_quiet() -> None:
    """Only what was sent before a quiet event must have crossed after it."""
    world = World()
    world.send(PLANT, OPS, "a1")
    world.finish()
    world.fault("link cut")
    assert check(world.events).unproven
    world.send(PLANT, OPS, "a2")  # sent after the quiet period, so it need not have crossed
    assert check(world.events).ok


def test_a_fact_in_flight_during_a_reading_is_not_missed() -> None:
    """Acknowledged after the snapshot began: it may or may not be in it."""
    world = World()
    world.put(SnapshotBegin(t=world.now, snapshot="early", zone=PLANT))
    world.send(PLANT, OPS, "a1")
    world.put(SnapshotEnd(t=world.now, snapshot="early"))
    assert check(world.finish()).ok


def _malformed() -> dict[str, list[Event]]:
    good = SHAPES["plain"]()
    ok = next(event for event in good if isinstance(event, Ok))
    read = next(event for event in good if isinstance(event, Read))
    call = next(event for event in good if isinstance(event, Append))
    return {
        "empty": [],
        "topology": good[1:],
        "second topology": [*good, dataclasses.replace(good[0], t=good[-1].t)],
        "used twice": [*good, dataclasses.replace(call, t=good[-1].t)],
        "unknown op": [*good, dataclasses.replace(ok, t=good[-1].t, op="?")],
        "second answer": [*good, Info(t=good[-1].t, op=ok.op, reason="late")],
        "is not open": [*good, dataclasses.replace(read, t=good[-1].t)],
        "goes back": [*good, Fault(t=0.0, name="kill")],
    }


@pytest.mark.parametrize("what", _malformed())
def test_a_malformed_history_is_not_judged(what: str) -> None:
    """A history that contradicts itself proves nothing."""
    with pytest.raises(HistoryError, match=what):
        check(_malformed()[what])


def test_every_event_survives_the_file(tmp_path: Path) -> None:
    """What is written is what is read, for every kind of event."""
    events = [event for shape in SHAPES.values() for event in shape()]
    assert {type(event) for event in events} == set(EVENT_TYPES)
    assert [decode(encode(event)) for event in events] == events
    path = tmp_path / "h.jsonl"
    path.write_text(dump(SHAPES["plain"]()))
    assert [placed.event for placed in load([path])] == SHAPES["plain"]()
    assert load([path])[3].place == "h.jsonl:4"


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{",
        '{"ev":"unknown","t":1}',
        '{"ev":"snapshot_end","t":1}',
        '{"ev":"snapshot_end","t":1,"snapshot":"s","more":1}',
        '{"ev":"snapshot_end","t":1,"snapshot":""}',
        '{"ev":"snapshot_end","t":1,"snapshot":7}',
        '{"ev":"snapshot_end","t":true,"snapshot":"s"}',
        '{"ev":"snapshot_end","t":-1,"snapshot":"s"}',
        '{"ev":"snapshot_end","t":NaN,"snapshot":"s"}',
        '{"ev":"ok","t":1,"op":"o","offset":1.0,"epoch":null,"duplicate":false}',
        '{"ev":"ok","t":1,"op":"o","offset":-1,"epoch":null,"duplicate":false}',
        '{"ev":"disaster","t":1,"zone":"z","kind":"flood","origin":null,"category":null}',
        '{"ev":"topology","t":1,"links":[{"origin":"a"}]}',
        '{"ev":"append","t":1,"op":"o","zone":"z","producer":"p","category":"c","to":"all","id":"i","content":"x"}',
    ],
)
def test_a_malformed_line_is_refused(line: str) -> None:
    """Parsing is strict."""
    with pytest.raises(HistoryError):
        decode(line)


def test_a_torn_or_backward_file_is_refused(tmp_path: Path) -> None:
    """A file that was cut or mixed up is refused."""
    path = tmp_path / "h.jsonl"
    path.write_text(dump(SHAPES["plain"]())[:-1])
    with pytest.raises(HistoryError, match="torn"):
        load([path])
    path.write_text(dump([Fault(t=2.0, name="x"), Fault(t=1.0, name="x")]))
    with pytest.raises(HistoryError, match="goes back"):
        load([path])


def test_recorders_of_threads_and_processes_make_one_history(tmp_path: Path) -> None:
    """Two files, four threads: merged by time they are one good history."""
    paths = [tmp_path / "driver.jsonl", tmp_path / "producer.jsonl"]
    lock, offsets = threading.Lock(), iter(range(1, 1000))
    log: list[tuple[int, str]] = []
    with Recorder(paths[0], name="driver") as driver, Recorder(paths[1], name="producer") as producer:
        driver.record(Topology(links=TWO_ZONES))

        def work(who: int) -> None:
            for number in range(20):
                fact = f"{who}-{number}"
                digest = content_digest(fact.encode())
                op = producer.append(zone=PLANT, producer="p", category=OPS, to=HUB, fact_id=fact, content=digest)
                with lock:
                    offset = next(offsets)
                    log.append((offset, fact))
                producer.ok(op, offset=offset, epoch="e")

        threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        op = producer.append(zone=PLANT, producer="p", category=OPS, to=HUB, fact_id="x", content=content_digest(b"x"))
        producer.refused(op, "buffer_full")
        op = producer.append(zone=PLANT, producer="p", category=OPS, to=HUB, fact_id="y", content=content_digest(b"y"))
        producer.info(op, "killed")
        driver.record(Quiet(deadline_s=5.0))
        for zone in (HUB, PLANT):
            with driver.snapshot(zone) as name:
                for offset, fact in log:
                    read = Read(
                        snapshot=name, stream="S", origin=PLANT, category=OPS, epoch="e", seq=offset, offset=offset,
                        producer="p", id=fact, content=content_digest(fact.encode()),
                    )  # fmt: skip
                    assert driver.record(read).t > 0
    placed = load(paths)
    assert len(placed) == len(driver.events) + len(producer.events)
    verdict = check(item.event for item in placed)
    assert verdict.violations == ()
    assert (verdict.counts.acked, verdict.counts.info, verdict.counts.refused) == (80, 1, {"buffer_full": 1})


def test_an_abandoned_snapshot_stays_open() -> None:
    """A reading that failed does not claim to be complete."""
    recorder = Recorder()
    with pytest.raises(KeyError), recorder.snapshot(PLANT):
        raise KeyError
    assert [type(event) for event in recorder.events] == [SnapshotBegin]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code says it: 0 holds, 1 violated, 2 cannot be judged."""
    path = tmp_path / "h.jsonl"
    path.write_text(dump(SHAPES["plain"]()))
    assert command.main([str(path)]) == 0
    assert "I10" in capsys.readouterr().out
    damage = next(d for d in DAMAGES if d.name == "swapped")
    path.write_text(dump(damage.history()))
    assert command.main([str(path)]) == 1
    assert "VIOLATIONS" in (out := capsys.readouterr().out)
    assert "[h.jsonl:" in out
    path.write_text(dump(World().events))
    assert command.main([str(path)]) == 2
    assert command.main([str(path), "--partial"]) == 0
    path.write_text("nonsense\n")
    assert command.main([str(path)]) == 2
    assert "h.jsonl:1" in capsys.readouterr().err


def test_command_line_as_a_module(tmp_path: Path) -> None:
    """It runs from the root of the repository."""
    path = tmp_path / "h.jsonl"
    path.write_text(dump(SHAPES["plain"]()))
    done = subprocess.run(
        [sys.executable, "-m", "tests.judge", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_long_history_is_judged_in_seconds() -> None:
    """Checks are linear; the bound leaves room for a slow machine."""
    events = long_history(50_000)
    assert len(events) > 200_000
    started = time.process_time()
    verdict = check(events)
    assert verdict.ok
    assert time.process_time() - started < 20


def test_a_flood_of_conflicts_under_one_id_is_linear() -> None:
    """One id with very many calls is no special case."""
    events = conflict_flood(20_000)
    started = time.process_time()
    assert check(events).ok
    assert time.process_time() - started < 10


def test_a_tiny_history_is_judged_at_once() -> None:
    """The simulation judges ten thousand runs."""
    events = SHAPES["plain"]()
    assert len(events) > 40
    best = min(_timed(events) for _ in range(20))
    assert best < 0.01


def _timed(events: list[Event]) -> float:
    started = time.process_time()
    check(events)
    return time.process_time() - started


def test_the_judge_knows_nothing_of_the_product() -> None:
    """An oracle that shares code with what it judges shares its mistakes."""
    script = "import sys, tests.judge.__main__; print([m for m in sys.modules if m.split('.')[0] == 'appliance'])"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
