# SPDX-License-Identifier: Apache-2.0
"""The good histories, by name: each acts out one kind of run that must pass without a finding."""

from __future__ import annotations

import random

from tests.judge.events import Event, Link, Quiet
from tests.judge.samples import HUB, OPS, OTHER, PLANT, TELE, THREE_ZONES, TWO_ZONES, World


def plain() -> list[Event]:
    """Both directions, two categories, an addressed and a local fact."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2", "a3")
    world.send(PLANT, OPS, "a4", to=PLANT)
    world.send(PLANT, TELE, "t1", "t2", to=HUB)
    world.send(HUB, OPS, "o1", "o2", "o3")
    return world.finish()


def running_reads() -> list[Event]:
    """Snapshots while facts are sent and cross, one of them never ended, one of one category only."""
    world = World()
    for number in range(6):
        world.send(PLANT, OPS, f"a{number}", to=HUB)
        world.send(PLANT, TELE, f"t{number}")
        world.cross(PLANT, HUB, OPS, 1)
        world.read(HUB, ends=number != 3)
        world.read(PLANT, origin=PLANT, category=OPS)
    return world.finish()


def retries() -> list[Event]:
    """Unknown outcomes: stored and retried, not stored and retried, never retried, never answered."""
    world = World()
    world.send_unknown(PLANT, OPS, "stored", stored=True)
    world.send(PLANT, OPS, "stored")
    world.send_unknown(PLANT, OPS, "lost", stored=False)
    world.send(PLANT, OPS, "lost")
    world.send_unknown(PLANT, OPS, "stored-alone", stored=True)
    world.send_unknown(PLANT, OPS, "lost-alone", stored=False)
    world.call(PLANT, OPS, "cut off")
    return world.finish()


def duplicates() -> list[Event]:
    """A flood of duplicates, and one id used by two producers."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2", "a1", "a1", "a2", "a3", "a3")
    world.send(PLANT, OPS, "a1", producer="p2", body="another fact")
    return world.finish()


def conflicts() -> list[Event]:
    """Other contents under known ids, refused; one refused for room before its id is looked up."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2", "a3")
    for number in range(4):
        world.send(PLANT, OPS, "a2", body=f"other {number}")
    world.refuse(PLANT, OPS, "a2", "buffer_full", body="other 9")
    world.send_unknown(PLANT, OPS, "a9", stored=True)
    world.send(PLANT, OPS, "a9", body="other")
    return world.finish()


def refusals() -> list[Event]:
    """Refused calls store nothing; one is repeated with success."""
    world = World()
    world.refuse(PLANT, OPS, "a1", "buffer_full")
    world.refuse(PLANT, OPS, "a2", "too_large")
    world.send(PLANT, OPS, "a1", "a3")
    return world.finish()


def three_zones() -> list[Event]:
    """A hub with two plants; facts to all, to one, and a category the policy keeps back."""
    world = World(THREE_ZONES)
    world.send(HUB, OPS, "o1", "o2")
    world.send(HUB, OPS, "for-a", to=PLANT)
    world.send(HUB, OPS, "for-b", to=OTHER)
    world.send(HUB, TELE, "t1", "t2")
    world.send(PLANT, OPS, "a1")
    world.send(OTHER, OPS, "a1", body="the other plant's a1")
    return world.finish()


def unknown_epochs() -> list[Event]:
    """Answers of a stock client, which name no epoch; with a wiped log in between."""
    world = World(acks_epoch=False)
    world.send(PLANT, OPS, "a1", "a2", "a1")
    world.cross(PLANT, HUB, OPS)
    world.read(HUB)
    world.wipe(PLANT)
    world.send(PLANT, OPS, "b1", "b2")
    return world.finish()


def kills() -> list[Event]:
    """Faults of both sides between sending and crossing; receipts seen before stay true after."""
    world = World()
    for number in range(4):
        world.send(PLANT, OPS, f"a{number}")
        world.send(HUB, OPS, f"o{number}")
        world.cross(PLANT, HUB, OPS)
        world.fault("kill hub", HUB)
        world.read(HUB)
        world.cross(HUB, PLANT, OPS)
        world.fault("link cut")
        world.read(PLANT)
    return world.finish()


def expired() -> list[Event]:
    """Both zones expire what has crossed, and record it; the forward log is emptied and goes on."""
    world = World()
    world.allow_trim(PLANT, TELE)
    world.allow_trim(HUB, TELE)
    world.send(PLANT, TELE, *(f"t{n}" for n in range(6)))
    world.cross_all()
    world.read(PLANT)
    world.read(HUB)
    world.trim(PLANT, (PLANT, TELE), 4)
    world.trim(HUB, (PLANT, TELE), 6)
    world.read(HUB)
    world.send(PLANT, TELE, "t6", "t7")
    return world.finish()


def dropped() -> list[Event]:
    """A site that lets telemetry be dropped before it crossed: an explicit gap on both sides."""
    world = World()
    world.allow_trim(PLANT, TELE, drop_unconfirmed=True)
    world.send(PLANT, TELE, "t1", "t2")
    world.cross_all()
    world.send(PLANT, TELE, "t3", "t4", "t5", "t6")
    world.trim(PLANT, (PLANT, TELE), 4)
    world.sides[HUB].gaps.append(((PLANT, TELE), world.epoch((PLANT, TELE)), 3, 4, "dropped"))
    return world.finish()


def poisoned() -> list[Event]:
    """Poison in the middle and at the end of a page, each killed after."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2")
    world.poison(PLANT, HUB, OPS)
    world.send(PLANT, OPS, "a3", "a4")
    world.cross(PLANT, HUB, OPS, 3)
    world.fault("kill hub", HUB)
    world.read(HUB)
    world.read(PLANT)
    world.send(HUB, OPS, "o1")
    world.poison(HUB, PLANT, OPS)
    return world.finish()


def plant_wiped() -> list[Event]:
    """The plant's log is wiped: what crossed stays, what did not is an open gap, local facts too; a new epoch."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2", "a3", "a4")
    world.send(PLANT, OPS, "local", to=PLANT)
    world.send(HUB, OPS, "o1", "o2")
    world.cross(PLANT, HUB, OPS, 2)
    world.cross(HUB, PLANT, OPS)
    world.read(PLANT)
    old = world.epoch((PLANT, OPS))
    open_call = world.call(PLANT, OPS, "in flight")
    world.store(open_call)
    world.wipe(PLANT)
    world.answer(open_call)
    world.sides[HUB].gaps.append(((PLANT, OPS), old, 3, None, "log_lost"))
    world.sides[PLANT].gaps.append(((PLANT, OPS), old, 1, None, "log_lost"))
    world.send(PLANT, OPS, "b1", "a2", "b2")
    world.cross(PLANT, HUB, OPS)
    world.read(HUB)
    return world.finish()


def plant_restored() -> list[Event]:
    """The plant's log falls back to an older copy, takes an id again, and is sent on in a new epoch."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2", "a3", "a4")
    world.cross(PLANT, HUB, OPS, 3)
    world.read(PLANT)
    old = world.epoch((PLANT, OPS))
    world.restore(PLANT, (PLANT, OPS), 2)
    world.epochs[PLANT, OPS] += 1
    world.sides[PLANT].gaps.append(((PLANT, OPS), old, 3, None, "log_lost"))
    world.sides[HUB].gaps.append(((PLANT, OPS), old, 4, None, "log_lost"))
    world.send(PLANT, OPS, "a3", body="another content")
    world.send(PLANT, OPS, "b1", "a1")
    return world.finish()


def hub_restored() -> list[Event]:
    """The hub falls back to an older copy: receipts move back once, the plant refills it."""
    world = World()
    world.send(PLANT, OPS, *(f"a{n}" for n in range(8)))
    world.cross(PLANT, HUB, OPS, 6)
    world.read(HUB)
    world.restore(HUB, (PLANT, OPS), 2)
    world.read(HUB)
    world.cross(PLANT, HUB, OPS, 2)
    world.read(HUB)
    return world.finish()


def hub_wiped() -> list[Event]:
    """The hub loses all; what the plant has expired cannot be refilled and is a gap."""
    world = World()
    world.allow_trim(PLANT, TELE)
    world.send(PLANT, TELE, "t1", "t2", "t3", "t4")
    world.cross_all()
    world.read(HUB)
    world.trim(PLANT, (PLANT, TELE), 2)
    world.wipe(HUB)
    world.sides[HUB].gaps.append(((PLANT, TELE), world.epoch((PLANT, TELE)), 1, 2, "expired_at_source"))
    return world.finish()


def two_quiets() -> list[Event]:
    """Two phases, each shown to converge."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2")
    world.finish()
    world.fault("link cut")
    world.send(PLANT, OPS, "a3")
    world.send(HUB, OPS, "o1")
    return world.finish()


def converged_late() -> list[Event]:
    """A first look after the quiet event is too early; a second one, within the deadline, shows everything."""
    world = World()
    world.send(PLANT, OPS, "a1", "a2", "a3")
    world.put(Quiet(t=world.now, deadline_s=60.0))
    world.cross(PLANT, HUB, OPS, 1)
    world.read(HUB)
    world.read(PLANT)
    world.cross(PLANT, HUB, OPS)
    world.read(HUB)
    return world.events


SHAPES = {
    shape.__name__: shape
    for shape in (
        plain,
        running_reads,
        retries,
        duplicates,
        conflicts,
        refusals,
        three_zones,
        unknown_epochs,
        kills,
        expired,
        dropped,
        poisoned,
        plant_wiped,
        plant_restored,
        hub_restored,
        hub_wiped,
        two_quiets,
        converged_late,
    )
}


def wander(seed: int, steps: int, links: tuple[Link, ...] = TWO_ZONES) -> list[Event]:
    """A random good run: sends, retries, conflicts, crossings, reads, kills, restores of the hub."""
    world, chance = World(links), random.Random(seed)
    zones = sorted({link.origin for link in links})
    for step in range(steps):
        zone, category = chance.choice(zones), chance.choice((OPS, TELE))
        link = chance.choice(links)
        fact_id, to = f"f{chance.randrange(step + 1)}", chance.choice(("all", HUB, PLANT))
        action = chance.randrange(20)
        if action < 8:
            world.send(zone, category, fact_id, to=to, producer=category, body=f"{zone} {fact_id}")
        elif action < 10:
            world.send_unknown(zone, category, f"u{step}", stored=chance.random() < 0.5, to=to)
        elif action < 11:
            world.refuse(zone, category, f"r{step}", "buffer_full")
        elif action < 15:
            crossing = chance.choice(link.categories or (OPS, TELE))
            world.cross(link.origin, link.target, crossing, chance.randrange(1, 5))
        elif action < 17:
            world.read(zone, ends=chance.random() < 0.8)
        elif action < 18:
            world.fault("kill", zone)
        elif action < 19 and len(world.sides[HUB].logs[PLANT, OPS]) > 1:
            kept = chance.randrange(1, len(world.sides[HUB].logs[PLANT, OPS]))
            world.restore(HUB, (PLANT, OPS), kept)
    return world.finish()
