# SPDX-License-Identifier: Apache-2.0
"""From readings to what follows: the one place that decides. Pure; whoever calls it says what time it is.

Theory of operation: each probe is a proof of the :class:`~appliance.watchdog.gate.Gate`. A reading in which nothing
closes the uplink makes the proof hold, and it gets older until the next one; so a probe that is blind, stuck or dead
closes the uplink when its last good reading is too old, and nobody has to notice. A reading that closes makes the proof
fail until one comes that does not. The first finding that quarantines is the trigger, for good: only a new start of
the machine makes a new assessor, and whether the box may speak then is not this module's memory but the TPM's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from appliance.watchdog.gate import NEVER, Finding, Gate, Sight, Verdict
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName, Response

SENSOR_AGE_S: Final = 10.0
"""A sensor that has said nothing for so long counts as dead."""
READING_AGE_S: Final[Mapping[ProbeName, float]] = {
    ProbeName.VERITY: 20.0,
    ProbeName.KERNEL: 20.0,
    ProbeName.FIRMWARE: 20.0,
    ProbeName.MOUNTS: 20.0,
    ProbeName.CONFIGURATION: 20.0,
    ProbeName.EXECUTABLES: 20.0,
    ProbeName.LISTENERS: 20.0,
    ProbeName.FIREWALL: 20.0,
    ProbeName.AUDIT: 20.0,
    ProbeName.HARDWARE: 20.0,
    ProbeName.DISK: 20.0,
    ProbeName.QUOTE: 60.0,
    ProbeName.KEY: 60.0,
    ProbeName.CLOCK: 60.0,
    ProbeName.LEDGER: 60.0,
    ProbeName.SENSOR: SENSOR_AGE_S,
}
"""How long a probe's last good reading is good for, in seconds: two of its periods at least. Those that ask keeper or
agent outlast a restart of these."""
LINGERS_S: Final = 3600.0
"""How long a note is told after it was last seen: an event is over at once, and people look later."""
_CLOSES: Final = frozenset({Response.CLOSE, Response.QUARANTINE})


@dataclass(frozen=True, slots=True)
class Note:
    """Something that is wrong and puts nobody into quarantine. Times are seconds of the caller's clock.

    :param since: when it was first seen; a note that was gone begins anew. :param last: when it was last seen.
    :param count: how many readings said it. :param lasts: whether the probe's last reading says so.
    """

    seen: Seen
    since: float
    last: float
    count: int = 1
    lasts: bool = True


@dataclass(frozen=True, slots=True)
class Trigger:
    """What put the box into quarantine. :param at: seconds of the caller's clock."""

    seen: Seen
    at: float


@dataclass(slots=True)
class Assessor:
    """What the watchdog thinks of its box.

    :param probes: those that must have looked before anything may leave. One that is not expected is heard all the
        same, when it has something to say.
    :param gate: the proofs; those of the probes are added to it.
    """

    probes: frozenset[ProbeName] = frozenset(READING_AGE_S)
    gate: Gate = field(default_factory=Gate)
    trigger: Trigger | None = None
    _last: dict[ProbeName, Reading] = field(default_factory=dict)
    _notes: dict[Code, Note] = field(default_factory=dict)
    _sensor_fails: bool = False

    def __post_init__(self) -> None:
        self.gate.expect({probe: READING_AGE_S[probe] for probe in sorted(self.probes)})

    def take(self, reading: Reading, now: float) -> Trigger | None:
        """A probe has looked. :return: the trigger, where this reading is the first one that quarantines."""
        self._last[reading.probe] = reading
        self._note(reading, now)
        quarantines = [each for each in reading.seen if SUSPICIONS[each.code].quarantines]
        finding = _finding(reading)
        if reading.probe is ProbeName.SENSOR:
            self._sensor_fails = finding.sight is Sight.FAILS
        if reading.probe in self.probes:
            self.gate.saw(finding, now)
        if not quarantines or self.trigger is not None:
            return None
        self.trigger = Trigger(quarantines[0], now)
        return self.trigger

    def heard(self, now: float) -> None:
        """The sensor's process has said something, whatever it was. What it said of itself is not mended by that."""
        if ProbeName.SENSOR in self.probes and not self._sensor_fails:
            self.gate.saw(Finding(ProbeName.SENSOR, Sight.HOLDS), now)

    def judge(self, now: float) -> Verdict:
        """Whether the box may speak now: nothing has quarantined it, and everything is proven by a fresh reading."""
        verdict = self.gate.judge(now)
        missing = tuple(_explained(each) for each in verdict.missing)
        if self.trigger is None:
            return Verdict(verdict.open, missing)
        seen = self.trigger.seen
        return Verdict(False, (Finding(SUSPICIONS[seen.code].probe, Sight.FAILS, seen.code, seen.detail), *missing))

    def notes(self, now: float) -> tuple[Note, ...]:
        """What is wrong besides, or was a short while ago; the oldest first."""
        told = [note for note in self._notes.values() if note.lasts or now - note.last <= LINGERS_S]
        return tuple(sorted(told, key=lambda note: (note.since, note.seen.code)))

    def readings(self) -> tuple[Reading, ...]:
        """The last one of each probe."""
        return tuple(self._last.values())

    def _note(self, reading: Reading, now: float) -> None:
        for each in dict.fromkeys(each.code for each in reading.seen):
            seen = next(one for one in reading.seen if one.code is each)
            known = self._notes.get(each)
            if known is None or (not known.lasts and now - known.last > LINGERS_S):
                self._notes[each] = Note(seen, now, now)
            else:
                self._notes[each] = replace(known, seen=seen, last=now, count=known.count + 1, lasts=True)
        if not reading.blind:
            self._end(reading.probe, {each.code for each in reading.seen})

    def _end(self, probe: ProbeName, present: Iterable[Code]) -> None:
        for code, note in self._notes.items():
            if SUSPICIONS[code].probe is probe and code not in present and note.lasts:
                self._notes[code] = replace(note, lasts=False)


def _finding(reading: Reading) -> Finding:
    """What a reading proves. A probe that is blind and has seen something all the same is believed."""
    for each in reading.seen:
        if SUSPICIONS[each.code].response in _CLOSES:
            return Finding(reading.probe, Sight.FAILS, each.code, each.detail)
    if reading.blind:
        return Finding(reading.probe, Sight.SILENT, Code.PROBE_BLIND, reading.blind)
    return Finding(reading.probe, Sight.HOLDS)


def _explained(finding: Finding) -> Finding:
    """A probe whose good reading is only too old has a code of its own; one that has yet to look has none."""
    if finding.sight is not Sight.SILENT or finding.proof not in set(ProbeName) or finding.detail == NEVER:
        return finding
    return replace(finding, reason=Code.SENSOR_SILENT if finding.proof == ProbeName.SENSOR else Code.PROBE_BLIND)
