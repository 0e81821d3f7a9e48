# SPDX-License-Identifier: Apache-2.0
"""Hand-made damages: each breaks one thing of a good history, and names the invariant that must notice it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from tests.judge.events import (
    Append,
    Confirm,
    DeadLetter,
    Disaster,
    Event,
    Gap,
    Ok,
    Quiet,
    Read,
    Refused,
    Retention,
    SnapshotBegin,
    SnapshotEnd,
)
from tests.judge.recorder import content_digest
from tests.judge.samples import HUB, OTHER, PLANT, TELE
from tests.judge.shapes import SHAPES
from tests.judge.verdict import Invariant

E = TypeVar("E", bound=Event)
History = list[Event]


class Bench:
    """A history on the bench, with the tools to damage it. A tool that finds nothing to damage raises LookupError."""

    def __init__(self, events: History) -> None:
        self.events = list(events)

    def find(self, kind: type[E], **want: object) -> list[E]:
        """The events of a kind with these fields, in order."""
        return [e for e in self.events if isinstance(e, kind) and all(getattr(e, k) == v for k, v in want.items())]

    def one(self, kind: type[E], nth: int = -1, **want: object) -> E:
        """The nth of these events, by default the last."""
        return self.find(kind, **want)[nth]

    def drop(self, *events: Event) -> None:
        """Take events out."""
        if not events:
            raise LookupError("nothing to drop")
        gone = {id(event) for event in events}
        self.events = [event for event in self.events if id(event) not in gone]

    def change(self, event: Event, **fields: Any) -> None:
        """Change fields of one event."""
        self.events[self._index(event)] = dataclasses.replace(event, **fields)

    def replace(self, event: Event, other: Event) -> None:
        """Put another event in the place of one."""
        self.events[self._index(event)] = other

    def after(self, event: Event, other: Event) -> None:
        """Put another event behind one."""
        self.events.insert(self._index(event) + 1, dataclasses.replace(other, t=event.t))

    def _index(self, event: Event) -> int:
        return next(i for i, other in enumerate(self.events) if other is event)

    def answer(self, fact_id: str, kind: type[E], nth: int = 0) -> E:
        """The nth answer of a kind to calls with this id."""
        ops = {call.op for call in self.find(Append, id=fact_id)}
        return [e for e in self.find(kind) if getattr(e, "op", None) in ops][nth]

    def snapshots(self, zone: str) -> list[str]:
        """The names of a zone's snapshots, in order."""
        return [event.snapshot for event in self.find(SnapshotBegin, zone=zone)]

    def read(self, zone: str, fact_id: str, nth: int = -1) -> Read:
        """How the nth snapshot of a zone, by default the last, shows a fact."""
        return self.one(Read, snapshot=self.snapshots(zone)[nth], id=fact_id)


@dataclass(frozen=True, slots=True)
class Damage:
    """One damage: to which shape, what it does, and the invariant it breaks."""

    name: str
    shape: str
    breaks: Invariant
    act: Callable[[Bench], None]

    def history(self) -> History:
        """The damaged history."""
        bench = Bench(SHAPES[self.shape]())
        self.act(bench)
        return bench.events


def _snapshot_without_end(b: Bench) -> None:
    b.drop(b.one(SnapshotEnd, snapshot=b.snapshots(HUB)[-1]))


def _zone_not_read(b: Bench) -> None:
    name = b.snapshots(HUB)[-1]
    b.drop(*(e for e in b.events if getattr(e, "snapshot", None) == name))


def _gap_over_kept_fact(b: Bench) -> None:
    b.change(b.one(Gap, snapshot=b.snapshots(HUB)[-1]), last=5)
    b.drop(b.read(HUB, "t5"))


def _twice(b: Bench) -> None:
    last = b.read(HUB, "a3")
    b.after(last, dataclasses.replace(b.read(HUB, "a1"), seq=last.seq + 1))


def _stored_again_elsewhere(b: Bench) -> None:
    for read in b.find(Read, snapshot=b.snapshots(HUB)[-1], origin=PLANT):
        b.change(read, seq=read.seq + 10)


def _twice_over_epochs(b: Bench) -> None:
    new, old = b.read(HUB, "b2"), b.read(HUB, "a2")
    b.after(new, dataclasses.replace(old, seq=new.seq + 1, epoch=new.epoch, offset=new.offset + 1))


def _twice_over_categories(b: Bench) -> None:
    last, fact = b.read(PLANT, "t2"), b.read(PLANT, "a4")
    moved = dataclasses.replace(fact, stream=last.stream, category=TELE, epoch=last.epoch)
    b.after(last, dataclasses.replace(moved, seq=last.seq + 1, offset=last.offset + 1))


def _swapped(b: Bench) -> None:
    first, second = b.read(HUB, "a2"), b.read(HUB, "a3")
    b.replace(first, dataclasses.replace(second, t=first.t))
    b.replace(second, dataclasses.replace(first, t=second.t))


def _swapped_names(b: Bench) -> None:
    first, second = b.read(HUB, "a2"), b.read(HUB, "a3")
    b.change(first, id="a3", content=second.content)
    b.change(second, id="a2", content=first.content)


def _hole_while_running(b: Bench) -> None:
    b.drop(b.read(HUB, "a2"))
    b.drop(*b.find(Quiet))
    b.drop(*b.find(Confirm))


def _two_acknowledged_at_one_place(b: Bench) -> None:
    b.change(b.answer("a2", Ok), offset=1)
    b.drop(*b.find(Quiet), *b.find(Confirm), *(e for e in b.events if hasattr(e, "snapshot")))


def _inserted_below(b: Bench) -> None:
    b.drop(b.read(HUB, "a0", 0), b.read(HUB, "a0", 1))


def _fact_nobody_sent(b: Bench) -> None:
    last = b.read(HUB, "a3")
    b.after(last, dataclasses.replace(last, id="ghost", seq=last.seq + 1, offset=last.offset + 9))


def _sent_after_read(b: Bench) -> None:
    early = b.read(PLANT, "a0", 0)
    late = b.read(PLANT, "a5")
    b.after(early, dataclasses.replace(late, snapshot=early.snapshot, stream=early.stream))


def _refused_is_read(b: Bench) -> None:
    last = b.read(PLANT, "a3")
    digest = b.one(Append, id="a2").content
    b.after(last, dataclasses.replace(last, id="a2", content=digest, seq=last.seq + 1, offset=last.offset + 1))


def _local_crossed(b: Bench) -> None:
    last, local = b.read(HUB, "a3"), b.read(PLANT, "a4")
    b.after(last, dataclasses.replace(local, snapshot=last.snapshot, stream=last.stream, seq=last.seq + 1))


def _other_category(b: Bench) -> None:
    read = b.read(HUB, "a3")
    b.change(read, category=TELE, stream="FACTS_TELEMETRY_FROM_PLANT-A")


def _content_before_sent(b: Bench) -> None:
    b.change(b.read(PLANT, "a3", 0), content=b.find(Append, id="a3")[1].content)


def _policy_ignored(b: Bench) -> None:
    here = b.one(Read, snapshot=b.snapshots(OTHER)[-1])
    secret = b.read(HUB, "t1")
    b.after(here, dataclasses.replace(secret, snapshot=here.snapshot, stream="FACTS_TELEMETRY_FROM_ENTERPRISE"))


def _lost_by_a_kill(b: Bench) -> None:
    b.drop(b.read(HUB, "a2", 2))


def _confirmed_too_early(b: Bench) -> None:
    b.change(b.one(Confirm, 0), offset=3)


def _receipt_back(b: Bench) -> None:
    b.change(b.one(Confirm, receiver=HUB), offset=1)


def _accepted(duplicate: bool) -> Callable[[Bench], None]:
    def act(b: Bench) -> None:
        refused = b.answer("a2", Refused)
        offset = 2 if duplicate else 9
        b.replace(refused, Ok(t=refused.t, op=refused.op, offset=offset, epoch=None, duplicate=duplicate))

    return act


def _false_conflict(b: Bench) -> None:
    ok = b.answer("a1", Ok, 1)
    b.replace(ok, Refused(t=ok.t, op=ok.op, reason="conflicting_duplicate"))


def _content_replaced(b: Bench) -> None:
    for read in b.find(Read, id="a2"):
        b.change(read, content=content_digest(b"other 1"))


def _two_dead_letters(b: Bench) -> None:
    letter = b.one(DeadLetter, snapshot=b.snapshots(HUB)[-1])
    b.after(letter, letter)


def _healthy_diverted(b: Bench) -> None:
    r = b.read(HUB, "a2")
    letter = DeadLetter(
        t=r.t,
        snapshot=r.snapshot,
        origin=r.origin,
        category=r.category,
        epoch=r.epoch,
        offset=r.offset,
        id=r.id,
        reason="x",
    )
    b.replace(r, letter)


def _poison_delivered(b: Bench) -> None:
    before, poison = b.read(HUB, "a2"), b.read(PLANT, "bad3")
    for read in (b.read(HUB, "a3"), b.read(HUB, "a4")):
        b.change(read, seq=read.seq + 1)
    b.after(before, dataclasses.replace(poison, snapshot=before.snapshot, stream=before.stream, seq=before.seq + 1))


def _stuck(b: Bench) -> None:
    b.drop(b.read(HUB, "a3"), b.read(HUB, "a4"))


def _bit_flipped(zone: str) -> Callable[[Bench], None]:
    return lambda b: b.change(b.read(zone, "a2"), content=content_digest(b"a bit flipped"))


def _late(b: Bench) -> None:
    b.change(b.one(Quiet), deadline_s=0.004)


def _first_phase_late(b: Bench) -> None:
    b.drop(b.read(HUB, "a2", 0))
    b.drop(*b.find(Confirm, receiver=HUB))


DAMAGES: tuple[Damage, ...] = (
    Damage("local_fact_gone", "plain", Invariant.I1, lambda b: b.drop(b.read(PLANT, "a4"))),
    Damage("acknowledged_gone_at_origin", "plain", Invariant.I1, lambda b: b.drop(b.read(PLANT, "a2"))),
    Damage("tail_never_arrived", "plain", Invariant.I1, lambda b: b.drop(b.read(HUB, "a3"))),
    Damage("gone_from_a_running_read", "running_reads", Invariant.I1, lambda b: b.drop(b.read(PLANT, "a1", 3))),
    Damage("gone_at_target_later", "kills", Invariant.I1, lambda b: b.drop(b.read(HUB, "a0", 2))),
    Damage("retried_unknown_lost", "retries", Invariant.I1, lambda b: b.drop(b.read(HUB, "stored"))),
    Damage("unacknowledged_stored_lost", "retries", Invariant.I1, lambda b: b.drop(b.read(HUB, "stored-alone"))),
    Damage("missing_in_the_third_zone", "three_zones", Invariant.I1, lambda b: b.drop(b.read(OTHER, "o2"))),
    Damage("expired_without_record", "expired", Invariant.I1, lambda b: b.drop(*b.find(Gap, last=4))),
    Damage("gap_without_cause", "dropped", Invariant.I1, lambda b: b.drop(b.one(Retention))),
    Damage(
        "gap_not_allowed_before_crossing",
        "dropped",
        Invariant.I1,
        lambda b: b.change(b.one(Retention), drop_unconfirmed=False),
    ),
    Damage("gap_over_a_fact_the_source_has", "dropped", Invariant.I1, _gap_over_kept_fact),
    Damage(
        "gap_too_short", "dropped", Invariant.I1, lambda b: b.change(b.one(Gap, snapshot=b.snapshots(HUB)[-1]), last=3)
    ),
    Damage("wiped_local_without_gap", "plant_wiped", Invariant.I1, lambda b: b.drop(*b.find(Gap, first=1))),
    Damage("wiped_uncrossed_without_gap", "plant_wiped", Invariant.I1, lambda b: b.drop(*b.find(Gap, first=3))),
    Damage("wiped_undeclared", "plant_wiped", Invariant.I1, lambda b: b.drop(b.one(Disaster))),
    Damage("sent_after_the_wipe_lost", "plant_wiped", Invariant.I1, lambda b: b.drop(b.read(PLANT, "b2"))),
    Damage("restored_without_gap", "plant_restored", Invariant.I1, lambda b: b.drop(*b.find(Gap, first=4))),
    Damage("not_refilled", "hub_restored", Invariant.I1, lambda b: b.drop(b.read(HUB, "a5"))),
    Damage("twice_in_one_log", "plain", Invariant.I2, _twice),
    Damage("stored_again_later", "kills", Invariant.I2, _stored_again_elsewhere),
    Damage("twice_over_epochs", "plant_wiped", Invariant.I2, _twice_over_epochs),
    Damage("twice_over_categories", "plain", Invariant.I2, _twice_over_categories),
    Damage(
        "told_stored_twice",
        "duplicates",
        Invariant.I2,
        lambda b: b.change(b.answer("a1", Ok, 1), duplicate=False, offset=77),
    ),
    Damage("swapped", "plain", Invariant.I3, _swapped),
    Damage("swapped_names", "plain", Invariant.I3, _swapped_names),
    Damage("sequence_stands_still", "plain", Invariant.I3, lambda b: b.change(b.read(HUB, "a2"), seq=1)),
    Damage("silent_hole", "plain", Invariant.I3, _hole_while_running),
    Damage("wrong_offset_at_target", "plain", Invariant.I3, lambda b: b.change(b.read(HUB, "a3"), offset=4)),
    Damage("unknown_epoch_at_target", "plain", Invariant.I3, lambda b: b.change(b.read(HUB, "a3"), epoch="stray")),
    Damage("acknowledged_elsewhere", "plain", Invariant.I3, lambda b: b.change(b.answer("a2", Ok), offset=9)),
    Damage(
        "acknowledged_elsewhere_no_epoch",
        "unknown_epochs",
        Invariant.I3,
        lambda b: b.change(b.answer("b1", Ok), offset=9),
    ),
    Damage("two_at_one_place", "plain", Invariant.I3, lambda b: b.change(b.answer("a2", Ok), offset=1)),
    Damage("two_acknowledged_at_one_place", "plain", Invariant.I3, _two_acknowledged_at_one_place),
    Damage("inserted_below", "running_reads", Invariant.I3, _inserted_below),
    Damage("never_sent", "plain", Invariant.I4, lambda b: b.drop(b.answer("a3", Ok), *b.find(Append, id="a3"))),
    Damage("from_nowhere", "plain", Invariant.I4, _fact_nobody_sent),
    Damage("sent_after_it_was_read", "running_reads", Invariant.I4, _sent_after_read),
    Damage("refused_but_read", "refusals", Invariant.I4, _refused_is_read),
    Damage("local_fact_crossed", "plain", Invariant.I4, _local_crossed),
    Damage("other_category_at_target", "plain", Invariant.I4, _other_category),
    Damage("content_read_before_it_was_sent", "plant_restored", Invariant.I4, _content_before_sent),
    Damage("policy_ignored", "three_zones", Invariant.I4, _policy_ignored),
    Damage("lost_by_a_kill_after_receipt", "kills", Invariant.I5, _lost_by_a_kill),
    Damage("confirmed_too_early", "converged_late", Invariant.I5, _confirmed_too_early),
    Damage("receipt_moved_back", "kills", Invariant.I6, _receipt_back),
    Damage("receipt_back_without_disaster", "hub_restored", Invariant.I6, lambda b: b.drop(b.one(Disaster))),
    Damage("conflict_accepted", "conflicts", Invariant.I7, _accepted(duplicate=False)),
    Damage("conflict_told_duplicate", "conflicts", Invariant.I7, _accepted(duplicate=True)),
    Damage("conflict_of_unknown_accepted", "conflicts", Invariant.I7, _content_replaced),
    Damage(
        "duplicate_with_other_offset", "duplicates", Invariant.I7, lambda b: b.change(b.answer("a1", Ok, 1), offset=2)
    ),
    Damage(
        "duplicate_told_stored", "duplicates", Invariant.I7, lambda b: b.change(b.answer("a1", Ok, 1), duplicate=False)
    ),
    Damage("false_conflict", "duplicates", Invariant.I7, _false_conflict),
    Damage(
        "false_conflict_at_first",
        "refusals",
        Invariant.I7,
        lambda b: b.change(b.answer("a2", Refused), reason="conflicting_duplicate"),
    ),
    Damage(
        "conflict_by_another_name",
        "conflicts",
        Invariant.I7,
        lambda b: b.change(b.answer("a2", Refused), reason="too_large"),
    ),
    Damage(
        "poison_left_no_dead_letter",
        "poisoned",
        Invariant.I8,
        lambda b: b.drop(b.one(DeadLetter, snapshot=b.snapshots(HUB)[-1])),
    ),
    Damage("two_dead_letters", "poisoned", Invariant.I8, _two_dead_letters),
    Damage("healthy_fact_diverted", "plain", Invariant.I8, _healthy_diverted),
    Damage("poison_delivered", "poisoned", Invariant.I8, _poison_delivered),
    Damage("stuck_behind_poison", "poisoned", Invariant.I8, _stuck),
    Damage("conflict_diverted_without_disaster", "plant_restored", Invariant.I8, lambda b: b.drop(b.one(Disaster))),
    Damage("bit_flipped_at_target", "plain", Invariant.I9, _bit_flipped(HUB)),
    Damage("bit_flipped_at_origin", "plain", Invariant.I9, _bit_flipped(PLANT)),
    Damage("bit_flipped_under_conflict", "conflicts", Invariant.I9, _bit_flipped(HUB)),
    Damage("zone_not_read", "plain", Invariant.I10, _zone_not_read),
    Damage("reading_not_finished", "plain", Invariant.I10, _snapshot_without_end),
    Damage("after_the_deadline", "converged_late", Invariant.I10, _late),
    Damage("first_phase_late", "two_quiets", Invariant.I10, _first_phase_late),
)
"""Every damage. The names are the ids of the tests."""
