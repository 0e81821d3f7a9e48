# SPDX-License-Identifier: Apache-2.0
"""The hub's side of trust: it tells the time, takes enrolments, and judges attestations (DESIGN: keys and time).

Whoever can reach the service may ask. So nothing that anybody may send changes what the hub thinks of a zone: nonces
are made without keeping anything, and only evidence that the zone's own attestation key signed is judged.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import trio

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.boundary.trust import AttestationAnswer
from appliance.keys.attestation.enrolled import EnrolledAttestation
from appliance.keys.attestation.evidence import Evidence
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.attestation.quote import one_form, parse_quote, qualified_name
from appliance.keys.attestation.verdict import Expected, Seen, Verdict, judge, refused
from appliance.keys.release import Release
from appliance.keys.time_token import TimeToken

NONCE_LIFE_S: Final = 60.0
"""A TPM quotes within seconds."""
FRESH_S: Final = 900.0
"""Three attestations may fail before a box counts as stale."""
SIGNATURES_WAITING: Final = 16
"""Time tokens that may wait for the boundary key. A TPM signs a few times a second, and receipts need it too."""
_DIGEST: Final = 16

_log = logging.getLogger(__name__)


class AttestationPolicy(StrEnum):
    """What becomes of a box that does not attest."""

    REQUIRED = "required"
    """Its facts wait until it does."""
    OBSERVE = "observe"
    """It is said in logs and status, and nothing else happens."""


class AttestationState(StrEnum):
    """What the hub knows of a box."""

    FRESH = "fresh"
    STALE = "stale"
    """No evidence since the hub started, or for too long."""
    FAILED = "failed"
    """The last evidence was not as expected."""


@dataclass(frozen=True, slots=True)
class Attested:
    """The last verdict on a box. :param at_s: when, by the hub's CLOCK_BOOTTIME."""

    verdict: Verdict
    at_s: float


class AttestationBook:
    """What the hub found of each zone's box, and how old that is. In memory: a restart makes every box stale.

    Times are seconds of a clock that nobody sets.

    :param fresh_s: how long a verdict counts.
    """

    def __init__(self, policy: AttestationPolicy, fresh_s: float = FRESH_S) -> None:
        self.policy = policy
        self.fresh_s = fresh_s
        self._last: dict[ZoneId, Attested] = {}

    def enter(self, zone: ZoneId, verdict: Verdict, now: float) -> None:
        """Note a verdict."""
        self._last[zone] = Attested(verdict, now)

    def forget(self, zone: ZoneId) -> None:
        """The zone's box was revoked or replaced: what was found was found of another one."""
        self._last.pop(zone, None)

    def follow(self, zone: ZoneId, enrolled: EnrolledAttestation | None) -> None:
        """Forget what was found of another box than the one that is enrolled now."""
        last = self._last.get(zone)
        if last is None or (enrolled is not None and last.verdict.seen.quote.signer == qualified_name(enrolled.name)):
            return
        self.forget(zone)

    def last(self, zone: ZoneId) -> Attested | None:
        """The last verdict, however old."""
        return self._last.get(zone)

    def seen(self, zone: ZoneId) -> Seen | None:
        """What the last evidence said."""
        last = self._last.get(zone)
        return None if last is None else last.verdict.seen

    def state(self, zone: ZoneId, now: float) -> AttestationState:
        """What is known of a zone now."""
        last = self._last.get(zone)
        if last is not None and not last.verdict.accepted:
            return AttestationState.FAILED
        if last is None or now - last.at_s > self.fresh_s:
            return AttestationState.STALE
        return AttestationState.FRESH

    def problem(self, zone: ZoneId, now: float) -> DeniedError | None:
        """What is wrong with a zone's attestation, under any policy; ``None``: nothing."""
        last, state = self._last.get(zone), self.state(zone, now)
        if state is AttestationState.FRESH:
            return None
        if last is None:
            return DeniedError(Reason.ATTESTATION_STALE, f"{zone} has not attested since the hub started")
        if state is AttestationState.STALE:
            return DeniedError(Reason.ATTESTATION_STALE, f"{zone} attested {now - last.at_s:.0f} s ago")
        return refused(last.verdict)

    def admits(self, zone: ZoneId, now: float) -> Reason | None:
        """Why a zone's calls are refused now: ``attestation_stale``, ``attestation_failed``; ``None``: they are not."""
        error = self.problem(zone, now) if self.policy is AttestationPolicy.REQUIRED else None
        return None if error is None else error.reason


class Nonces:
    """Nonces that are good for one zone, for a while, and once; nothing is kept of those that nobody uses.

    A nonce is an expiry, random bytes, and a keyed digest over both and the zone: only this object can have made it.

    :param life_s: how long one is good. :param key: tests bring their own.
    """

    def __init__(self, life_s: float = NONCE_LIFE_S, key: bytes | None = None) -> None:
        self._life_ms = int(life_s * 1000)
        self._key = key or secrets.token_bytes(32)
        self._used: dict[bytes, int] = {}

    def new(self, zone: ZoneId, now: float) -> bytes:
        """A nonce of 32 bytes."""
        head = (int(now * 1000) + self._life_ms).to_bytes(8) + secrets.token_bytes(8)
        return head + self._digest(zone, head)

    def check(self, zone: ZoneId, nonce: bytes, now: float) -> None:
        """:raises DeniedError: ``bad_evidence``: not one of ours for this zone, too old, or used."""
        head, digest = nonce[:_DIGEST], nonce[_DIGEST:]
        if len(nonce) != 32 or not hmac.compare_digest(digest, self._digest(zone, head)):
            raise DeniedError(Reason.BAD_EVIDENCE, "not over a nonce that this hub gave to this zone")
        if int.from_bytes(head[:8]) < now * 1000:
            raise DeniedError(Reason.BAD_EVIDENCE, "the nonce is too old")
        if nonce in self._used:
            raise DeniedError(Reason.BAD_EVIDENCE, "the nonce was used")

    def use(self, nonce: bytes, now: float) -> None:
        """A checked nonce is used up. Only a proven quote gets here, so few are kept, and none longer than it lives."""
        self._used = {used: ends for used, ends in self._used.items() if ends >= now * 1000}
        self._used[nonce] = int.from_bytes(nonce[:8])

    def _digest(self, zone: ZoneId, head: bytes) -> bytes:
        return hmac.digest(self._key, zone.encode() + b"\0" + head, hashlib.sha256)[:_DIGEST]


def boottime_s() -> float:
    """Seconds that nobody can set."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


async def _kept_nowhere(_zone: ZoneId, _what: object) -> None:
    """For who keeps nothing of it."""


@dataclass(frozen=True, slots=True)
class TrustHooks:
    """What the trust service stands on.

    :param sign: the boundary key of the hub's zone (:class:`~appliance.boundary.ports.KeysPort`).
    :param enrol: takes one step of the enrolment dialogue.
    :param enrolled: what is kept of a zone's box since its enrolment; ``None``: there is none, or it was revoked.
    :param measurements: what the image builder published; ``None``: nothing is known.
    :param wall_ms: the hub's wall clock, which is boundary time. :param now: a clock that nobody sets.
    :param changed: called with a zone when a verdict on it was entered.
    :param released: a zone's box has shown a release that explains its counter; it is kept when this returns.
    :param quarantined: a zone's TPM has certified a counter that nothing explains.
    """

    sign: Callable[[bytes], Awaitable[Signature]]
    enrol: Callable[[bytes], Awaitable[bytes]]
    enrolled: Callable[[ZoneId], EnrolledAttestation | None]
    measurements: Callable[[], Measurements | None] = lambda: None
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    now: Callable[[], float] = boottime_s
    changed: Callable[[ZoneId], None] = lambda _zone: None
    released: Callable[[ZoneId, Release], Awaitable[None]] = _kept_nowhere
    quarantined: Callable[[ZoneId, int], Awaitable[None]] = _kept_nowhere


class TrustService:
    """A :class:`~appliance.boundary.trust.TrustPort` for the hub of ``zone``."""

    def __init__(self, zone: ZoneId, hooks: TrustHooks, book: AttestationBook) -> None:
        self._zone = zone
        self._hooks = hooks
        self._book = book
        self._nonces = Nonces()
        self._signing = trio.Lock()
        self._judging = trio.CapacityLimiter(1)  # evidence of anybody must not take the threads that facts need

    async def get_time(self, nonce: bytes) -> bytes:
        """A signed token, with the time at which the boundary key's turn came.

        :raises UnavailableError: ``busy``: too many wait; ``not_ready``: the hub's boundary key cannot be used now.
        """
        if self._signing.statistics().tasks_waiting >= SIGNATURES_WAITING:
            raise UnavailableError(Reason.BUSY, "too many boxes ask for the time")
        async with self._signing:
            unix_ms = self._hooks.wall_ms()
            try:
                made = await self._hooks.sign(TimeToken.statement_of(self._zone, nonce, unix_ms))
                signature = Signature(one_form(made.value), made.certificate)
            except BsfgError as error:  # whatever it is, it is ours and not the box's
                raise UnavailableError(Reason.NOT_READY, f"the hub cannot sign: {error.reason}") from error
        return TimeToken(self._zone, nonce, unix_ms, signature).render()

    async def enrol(self, document: bytes) -> bytes:
        """One step of the enrolment dialogue."""
        return await self._hooks.enrol(document)

    async def begin_attestation(self, zone: ZoneId) -> bytes:
        """A nonce for the next quote of this zone's box. :raises DeniedError: ``unknown_peer``."""
        self._enrolled(zone)
        return self._nonces.new(zone, self._hooks.now())

    async def attest(self, zone: ZoneId, evidence: bytes) -> AttestationAnswer:
        """Judge evidence. :raises RefusedError: ``bad_document``. :raises DeniedError: ``bad_evidence``."""
        enrolled, now = self._enrolled(zone), self._hooks.now()
        shown, nonce = await trio.to_thread.run_sync(_opened, evidence, limiter=self._judging)
        if shown.zone != zone:
            raise DeniedError(Reason.BAD_EVIDENCE, f"evidence of {shown.zone}, shown for {zone}")
        self._nonces.check(zone, nonce, now)
        self._book.follow(zone, enrolled)
        expected = Expected(enrolled, self._hooks.measurements(), self._book.seen(zone))
        verdict = await trio.to_thread.run_sync(judge, expected, shown, nonce, int(now * 1000), limiter=self._judging)
        self._nonces.check(zone, nonce, now)  # nothing else may have used it while the thread ran
        self._nonces.use(nonce, now)
        await self._stood(zone, verdict)
        self._book.enter(zone, verdict, now)
        self._note(zone, verdict)
        findings = tuple(finding.text for finding in verdict.findings)
        return AttestationAnswer(verdict.accepted, findings, int(self._book.fresh_s) if verdict.accepted else 0)

    async def _stood(self, zone: ZoneId, verdict: Verdict) -> None:
        """What the counter says is kept: a release lets the box in for good, a lock keeps it out until there is one.

        :raises UnavailableError: ``not_ready``: it cannot be kept, so it does not count.
        """
        stood = verdict.standing
        try:
            if stood.ahead and stood.counter is not None:
                await self._hooks.quarantined(zone, stood.counter)
            elif stood.release is not None and verdict.accepted:
                await self._hooks.released(zone, stood.release)
        except BsfgError as error:
            raise UnavailableError(Reason.NOT_READY, f"the office: {error.reason}: {error.detail}") from error

    def _enrolled(self, zone: ZoneId) -> EnrolledAttestation:
        enrolled = self._hooks.enrolled(zone)
        if enrolled is None:
            raise DeniedError(Reason.UNKNOWN_PEER, f"{zone}: no box with a TPM is enrolled")
        return enrolled

    def _note(self, zone: ZoneId, verdict: Verdict) -> None:
        for finding in verdict.findings:
            _log.log(logging.ERROR if finding.fatal else logging.INFO, "attestation of %s: %s", zone, finding.text)
        self._hooks.changed(zone)


def _opened(evidence: bytes) -> tuple[Evidence, bytes]:
    """Evidence, and the nonce it says it is over."""
    shown = Evidence.parse(evidence)
    return shown, parse_quote(shown.quote.statement).nonce
