# SPDX-License-Identifier: Apache-2.0
"""What a seed decides before the first step: sizes, how often things fail, and which accidents happen when."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from appliance.boundary.names import Category, ZoneId

PLANT: Final = ZoneId("plant-a")
HUB: Final = ZoneId("enterprise")
ZONES: Final = (PLANT, HUB)
KEPT: Final = Category("operational")
"""The category that refuses new facts when it is full."""
DROPPED: Final = Category("telemetry")
"""The category that drops its oldest facts when it is full."""
CATEGORIES: Final = (KEPT, DROPPED)


class Accident(StrEnum):
    """What can happen to a zone or to the link at a moment."""

    CRASH = "crash"
    CRASH_AT_STEP = "crash-at-step"
    BROKER_AWAY = "broker-away"
    LEDGER_AWAY = "ledger-away"
    LINK_CUT = "link-cut"
    BACKUP = "backup"
    SNAPSHOT = "snapshot"
    CLOCK_STEP = "clock-step"
    KEY_LATCHED = "key-latched"
    RETENTION = "retention"
    EMPTIED = "emptied"
    LEDGER_DELETED = "ledger-deleted"
    LEDGER_OLDER = "ledger-older"
    LOG_WIPED = "log-wiped"
    LOGS_WIPED = "logs-wiped"
    ZONE_WIPED = "zone-wiped"
    LOGS_OLDER = "logs-older"
    ZONE_OLDER = "zone-older"


DISASTERS: Final = (
    Accident.LEDGER_DELETED,
    Accident.LEDGER_OLDER,
    Accident.LOG_WIPED,
    Accident.LOGS_WIPED,
    Accident.ZONE_WIPED,
    Accident.LOGS_OLDER,
    Accident.ZONE_OLDER,
)
_MISHAPS: Final = (
    Accident.CRASH,
    Accident.CRASH_AT_STEP,
    Accident.CRASH_AT_STEP,
    Accident.BROKER_AWAY,
    Accident.LEDGER_AWAY,
    Accident.LINK_CUT,
    Accident.SNAPSHOT,
    Accident.CLOCK_STEP,
    Accident.KEY_LATCHED,
)


@dataclass(frozen=True, slots=True)
class Mishap:
    """One accident: when, where (the link has no zone), how bad (0 to 1)."""

    at: float
    what: Accident
    zone: ZoneId
    size: float
    category: Category


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about a run that is decided beforehand."""

    seed: int
    length_s: float
    facts: int
    page_facts: int
    page_limit: int
    wait_ms: int
    capacity: int
    buffer_bytes: int
    atomic_from: int
    lost: float
    slow: float
    late: float
    link_lost: float
    link_delay_s: float
    link_doubled: float
    sign_s: float
    sign_lost: float
    torn: float
    poisoned: float
    invalid: float
    conflicting: float
    repeated: float
    mishaps: tuple[Mishap, ...] = field(default=())

    @property
    def disasters(self) -> int:
        """How many of the accidents damage what a zone keeps."""
        return sum(mishap.what in DISASTERS for mishap in self.mishaps)


def make_plan(seed: int, *, disasters: bool = True) -> Plan:
    """The plan of a seed. A tenth of the runs is calm; about every second one of the others has disasters."""
    dice = random.Random(f"plan {seed}")
    rough = dice.random() < 0.9
    length = dice.uniform(4, 16)

    def rate(highest: float) -> float:
        return dice.choice((0.0, highest / 10, highest)) if rough else 0.0

    mishaps = _mishaps(dice, length, rough=rough, disasters=disasters and dice.random() < 0.6)
    # A zone that is set back uses the same offsets again: a place could not be declared spoilt for ever.
    is_set_back = any(mishap.what is Accident.ZONE_OLDER for mishap in mishaps)
    return Plan(
        seed=seed,
        length_s=length,
        facts=dice.randint(2, 8),
        page_facts=dice.choice((1, 2, 3, 5, 999)),
        page_limit=dice.choice((2, 4, 1000)),
        wait_ms=dice.choice((700, 5000, 5000)),
        buffer_bytes=dice.choice((1500, 3000, 10**9, 10**9)),
        capacity=dice.choice((3, 5, 8, 1000)),
        atomic_from=dice.choice((2, 4, 64)),
        lost=rate(0.08),
        slow=dice.choice((0.0, 0.05)),
        late=rate(0.5),
        link_lost=rate(0.1),
        link_delay_s=dice.choice((0.0, 0.02, 0.5)) if rough else 0.0,
        link_doubled=rate(0.1),
        sign_s=dice.choice((0.0, 0.1, 1.2)),
        sign_lost=rate(0.2),
        torn=rate(0.03),
        poisoned=0.0 if is_set_back else rate(0.1),
        invalid=rate(0.1),
        conflicting=rate(0.3),
        repeated=rate(0.4),
        mishaps=mishaps,
    )


def _mishaps(dice: random.Random, length: float, *, rough: bool, disasters: bool) -> tuple[Mishap, ...]:
    kinds: list[Accident] = [dice.choice(_MISHAPS) for _ in range(dice.randint(1, 6))] if rough else []
    if rough and dice.random() < 0.4:
        kinds += dice.choices((Accident.RETENTION, Accident.EMPTIED), k=dice.randint(1, 2))
    if rough and disasters:
        struck = dice.choices(DISASTERS, k=dice.choice((1, 1, 1, 2, 2, 3)))
        kinds += struck
        if any(kind in (Accident.LEDGER_OLDER, Accident.LOGS_OLDER, Accident.ZONE_OLDER) for kind in struck):
            kinds += [Accident.BACKUP] * dice.randint(2, 5)
    found = [
        Mishap(dice.uniform(0, length), kind, dice.choice(ZONES), dice.random(), dice.choice(CATEGORIES))
        for kind in kinds
    ]
    return tuple(sorted(found, key=lambda mishap: mishap.at))
