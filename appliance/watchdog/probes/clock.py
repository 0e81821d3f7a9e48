# SPDX-License-Identifier: Apache-2.0
"""The clocks against one another: the TPM's, as it stands in quotes, the machine's, and what the hub has told.

A TPM counts its resets and restarts. A power cut or a reboot ends this boot as well; a count that grows while the box
runs means that the TPM alone was reset, which empties its PCRs for somebody to fill. Its clock may not go back within
one count, nor fall behind the machine's by more than any oscillator would.

The counts outlast the watchdog in a folder of this boot. The wall clock proves nothing and is only noted.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

import trio

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.keys.attestation.verdict import RATE, SHORTEST_MS
from appliance.keys.boundary_time import TpmClock
from appliance.keys.files import PRIVATE, write_atomically
from appliance.watchdog.probes.witness import FRESH_S, Taken, Witness, words
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName, Response

PERIOD_S: Final = 10.0
CLOCK_FILE: Final = "tpm-clock.json"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Sample:
    """The TPM's clock at a moment between two of the machine's (CLOCK_BOOTTIME, milliseconds)."""

    boot_id: str
    clock_ms: int
    reset_count: int
    restart_count: int
    began_ms: int
    ended_ms: int

    @classmethod
    def of(cls, boot_id: str, clock: TpmClock, began_ns: int, ended_ns: int) -> Self:
        """A reading."""
        began_ms, ended_ms = began_ns // 1_000_000, -(-ended_ns // 1_000_000)
        return cls(boot_id, clock.clock_ms, clock.reset_count, clock.restart_count, began_ms, ended_ms)

    @property
    def counts(self) -> tuple[int, int]:
        """Of resets and of restarts."""
        return self.reset_count, self.restart_count


def compared(first: Sample, before: Sample, now: Sample) -> list[Seen]:
    """What the TPM's clock says against its own past. Pure.

    :param first: of this boot, or the one by which the rate was judged last. :param before: the latest one.
    """
    if now.counts != before.counts:
        return [Seen(Code.TPM_RESET, f"resets {_text(now)}, {_text(before)} before; the machine runs on")]
    if now.clock_ms < before.clock_ms:
        return [Seen(Code.TPM_CLOCK_BACK, f"{before.clock_ms - now.clock_ms} ms back")]
    least_ms, most_ms = now.began_ms - first.ended_ms, now.ended_ms - first.began_ms
    counted_ms = now.clock_ms - first.clock_ms
    if least_ms > SHORTEST_MS and counted_ms * RATE < least_ms:
        return [Seen(Code.TPM_CLOCK_BACK, f"it counted {counted_ms} ms in {least_ms} ms")]
    if least_ms > SHORTEST_MS and counted_ms > most_ms * RATE:
        return [Seen(Code.TPM_CLOCK_AHEAD, f"it counted {counted_ms} ms in {most_ms} ms")]
    return []


class ClockProbe:
    """An :class:`~appliance.watchdog.probing.AsyncProbe`.

    :param run_dir: a folder that does not outlive a boot. :param wall: Unix seconds.
    :param fresh_s: a quote of this age will do.
    """

    name = ProbeName.CLOCK
    period_s = PERIOD_S

    def __init__(
        self,
        witness: Witness,
        run_dir: Path,
        wall: Callable[[], float] = time.time,
        boot_id: Path = BOOT_ID,
        fresh_s: float = FRESH_S,
    ) -> None:
        self._witness, self._path, self._wall, self._fresh_s = witness, run_dir / CLOCK_FILE, wall, fresh_s
        self._boot_id = boot_id.read_text("ascii").strip()
        self._first: Sample | None = None
        self._before: Sample | None = None

    async def look(self) -> Reading:
        """As the port says."""
        try:
            taken = await self._witness.quote(self._fresh_s)
            floor_ms = (await self._witness.keeper.status()).floor_unix_ms
        except BsfgError as error:
            who = "the quote is not this box's" if error.reason is Reason.BAD_EVIDENCE else words(error)
            return Reading(self.name, blind=who)
        return await trio.to_thread.run_sync(self._compared, taken, floor_ms)

    def _compared(self, taken: Taken, floor_ms: int) -> Reading:
        now = Sample.of(self._boot_id, taken.statement.clock, taken.began_ns, taken.ended_ns)
        before = self._before or self._kept()
        first = self._first or before or now
        seen = compared(first, before, now) if before is not None and now != before else []
        if not any(SUSPICIONS[each.code].response is Response.QUARANTINE for each in seen):
            # What is suspicious is not forgotten by getting used to it, nor by starting the watchdog anew.
            judged = now.began_ms - first.ended_ms > SHORTEST_MS
            self._first, self._before = (now if judged else first), now
            self._keep(now)
        wall_ms = int(self._wall() * 1000)
        if wall_ms < floor_ms:
            seen.append(Seen(Code.CLOCK_IMPLAUSIBLE, f"{(floor_ms - wall_ms) // 1000} s before boundary time"))
        return Reading(self.name, tuple(seen), facts={"tpm_clock_ms": str(now.clock_ms), "resets": _text(now)})

    def _kept(self) -> Sample | None:
        """What an earlier watchdog of this boot saw."""
        try:
            found = Sample(**json.loads(self._path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return found if found.boot_id == self._boot_id else None

    def _keep(self, now: Sample) -> None:
        try:
            write_atomically(self._path, json.dumps(asdict(now)).encode(), PRIVATE)
        except OSError:  # then it does not outlast this process
            return


def _text(sample: Sample) -> str:
    return f"{sample.reset_count}.{sample.restart_count}"
