# SPDX-License-Identifier: Apache-2.0
"""Boundary time: what time it is at the hub, on a box whose own clock may be wrong by years. Pure, no clock inside.

Boundary time is CLOCK_BOOTTIME plus an offset. The offset comes from a :class:`~appliance.keys.time_token.TimeToken`
over a nonce of ours; within one boot it is kept, also when the keeper restarts. CLOCK_BOOTTIME counts through suspend
and cannot be set, so the wall clock decides nothing.

Before the first token of a boot, and against a hub whose clock went back, there is a **floor**: boundary time is not
before the build of this software, nor before the last token, nor before that token plus what the TPM's clock has
counted since. The TPM's clock runs only under power and goes back to 0 when the TPM is cleared, so it can tell too
little, never too much: but its rate may be fast by up to 32.5 % (TPM 2.0 part 3, 29.3), so three quarters are taken.

A hub whose clock jumps ahead would take every box along, and no box could come back behind its floor. So a box that
knows the time takes a step forward of more than an hour only when the hub has said the same for an hour; until then
it goes on counting, and says what it was told. A box that did not know the time has to believe: if that floor is
wrong, installing the box's certificate anew lowers it.

Whoever owns the TPM can set its clock forward (TPM2_ClockSet), and with it the floor: then tokens are refused. That
is denial of service, as latching is, and never makes an ended certificate good again.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import DeniedError
from appliance.boundary.reasons import Reason
from appliance.keys.time_token import NONCE_BYTES, HubTrust, TimeToken

BUILT_UNIX_MS: Final = 1_793_491_200_000
"""2026-11-01: this software did not exist before. Images state a later time of their own."""
ROUND_TRIP_NS: Final = 10_000_000_000
"""A token that came later than this after its nonce says too little about now."""
LARGEST_STEP_MS: Final = 3_600_000
"""A larger step forward within one boot is taken only when it was confirmed for so long as well."""
_AGREEMENT_MS: Final = 60_000
OPEN_NONCES: Final = 8
"""So many questions may be open; the oldest is forgotten first."""
_NS_PER_MS: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class TpmClock:
    """The TPM's clock (TPMS_CLOCK_INFO, part 2, 10.11.1).

    :param clock_ms: milliseconds under power since the TPM was cleared; also counts on after a reset.
    """

    clock_ms: int
    reset_count: int
    restart_count: int


@dataclass(frozen=True, slots=True)
class Readings:
    """What the machine's clocks say now.

    :param boottime_ns: CLOCK_BOOTTIME. :param boot_id: the kernel's random id of this boot. :param tpm: none where
        there is no TPM, or it does not answer.
    """

    boottime_ns: int
    boot_id: str
    tpm: TpmClock | None = None


@dataclass(frozen=True, slots=True)
class Offset:
    """Boundary time minus CLOCK_BOOTTIME, good for one boot.

    :param error_ns: half the round trip of its token: how far it can be wrong, apart from the hub's own error.
    """

    boot_id: str
    offset_ns: int
    error_ns: int


@dataclass(frozen=True, slots=True)
class LastToken:
    """The last token taken, and the TPM's clock then; what the floor is made of after a restart."""

    unix_ms: int
    tpm: TpmClock | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """A token was taken.

    :param unix_ms: boundary time now. :param step_ms: how far boundary time stepped; ``None``: it was unknown.
    """

    unix_ms: int
    step_ms: int | None
    offset: Offset
    last: LastToken


class BoundaryClock:
    """The rules of boundary time; every call brings the readings it is about.

    :param built_unix_ms: the first floor. :param offset: what was kept of this or an earlier boot.
    :param last: what was kept durably. :param random: makes nonces; tests bring their own.
    """

    def __init__(
        self,
        built_unix_ms: int = BUILT_UNIX_MS,
        *,
        offset: Offset | None = None,
        last: LastToken | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._built = max(built_unix_ms, BUILT_UNIX_MS)
        self._offset = offset
        self._last = last
        self._random = random
        self._open: dict[bytes, int] = {}
        self._doubted: tuple[int, int] | None = None

    def nonce(self, readings: Readings) -> bytes:
        """A new nonce for a token; the last few are good, each once."""
        while len(self._open) >= OPEN_NONCES:
            del self._open[next(iter(self._open))]
        nonce = self._random(NONCE_BYTES)
        self._open[nonce] = readings.boottime_ns
        return nonce

    def take(self, data: bytes, trust: HubTrust, readings: Readings) -> Taken:
        """Take a token. What is to be kept is in the answer, to be written before it is relied on.

        :raises DeniedError: ``bad_time_token``: not a token in its one form; not over a nonce that we
            gave and that was not used; not the hub's; too late; before the floor; or too far ahead for now.
        """
        token = TimeToken.parse(data)
        if token.nonce not in self._open:
            raise DeniedError(Reason.BAD_TIME_TOKEN, "not over a nonce that was given here, or the nonce was used")
        trust.check(token)
        asked_ns = self._open.pop(token.nonce)
        took_ns = readings.boottime_ns - asked_ns
        if not 0 <= took_ns <= ROUND_TRIP_NS:
            raise DeniedError(Reason.BAD_TIME_TOKEN, f"it came {took_ns / 1e9:.1f} s after its nonce")
        floor = self.floor_unix_ms(readings)
        if token.unix_ms < floor:
            raise DeniedError(Reason.BAD_TIME_TOKEN, f"it says {floor - token.unix_ms} ms before what is known already")
        # The hub read its clock at some moment between asking and now; the middle is wrong by half of that at most.
        before = self.unix_ms(readings)
        self._check_step(token.unix_ms, before, readings.boottime_ns // _NS_PER_MS)
        offset_ns = token.unix_ms * _NS_PER_MS - (asked_ns + took_ns // 2)
        self._offset = Offset(readings.boot_id, offset_ns, took_ns // 2)
        self._last = LastToken(token.unix_ms, readings.tpm)
        now = (readings.boottime_ns + offset_ns) // _NS_PER_MS
        return Taken(now, None if before is None else now - before, self._offset, self._last)

    def forget_floor(self) -> None:
        """Who enrolled the box anew also vouches for the time that comes next: the floor falls to the build time."""
        self._last = None

    def _check_step(self, unix_ms: int, before_ms: int | None, boottime_ms: int) -> None:
        """A large step forward must have been said for a while. :raises DeniedError: ``bad_time_token``: not yet."""
        if before_ms is None or unix_ms - before_ms <= LARGEST_STEP_MS:
            self._doubted = None
            return
        said_ms, at_ms = self._doubted or (unix_ms, boottime_ms)
        if abs((unix_ms - said_ms) - (boottime_ms - at_ms)) > _AGREEMENT_MS:
            said_ms, at_ms = unix_ms, boottime_ms
        self._doubted = (said_ms, at_ms)
        if boottime_ms - at_ms < LARGEST_STEP_MS:
            hours = (unix_ms - before_ms) / 3_600_000
            raise DeniedError(
                Reason.BAD_TIME_TOKEN, f"it says {hours:.1f} h more than has passed here; not believed yet"
            )
        self._doubted = None

    def offset_ns(self, boot_id: str) -> int | None:
        """Boundary time minus CLOCK_BOOTTIME; ``None``: no token was taken in this boot."""
        if self._offset is None or self._offset.boot_id != boot_id:
            return None
        return self._offset.offset_ns

    def unix_ms(self, readings: Readings) -> int | None:
        """Boundary time; ``None``: no token was taken in this boot."""
        offset_ns = self.offset_ns(readings.boot_id)
        return None if offset_ns is None else (readings.boottime_ns + offset_ns) // _NS_PER_MS

    def floor_unix_ms(self, readings: Readings) -> int:
        """Boundary time is not before this, whatever a token says."""
        if self._last is None:
            return self._built
        return max(self._built, self._last.unix_ms + _counted_ms(self._last.tpm, readings.tpm))


def _counted_ms(then: TpmClock | None, now: TpmClock | None) -> int:
    """Milliseconds that have passed for certain between two readings of the TPM's clock."""
    if then is None or now is None or now.reset_count < then.reset_count:
        return 0  # a smaller count of resets: the TPM was cleared, and its clock began anew
    return max(0, now.clock_ms - then.clock_ms) * 3 // 4
