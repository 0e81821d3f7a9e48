# SPDX-License-Identifier: Apache-2.0
"""Boundary time under simulated clocks: boots, suspend, TPM resets, a hub whose clock jumps; mutants of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from appliance.boundary.errors import DeniedError
from appliance.boundary.names import ZoneId
from appliance.boundary.pages import Signature
from appliance.boundary.reasons import Reason
from appliance.keys.boundary_time import (
    BUILT_UNIX_MS,
    OPEN_NONCES,
    ROUND_TRIP_NS,
    BoundaryClock,
    LastToken,
    Offset,
    Readings,
    Taken,
    TpmClock,
)
from appliance.keys.certificates import Authority, certificate_der, new_device_ca, new_hub_ca
from appliance.keys.operators import ORDER, sign
from appliance.keys.time_store import TimeStore, built_unix_ms, machine_readings
from appliance.keys.time_token import LAST_UNIX_MS, HubTrust, TimeToken

HUB = ZoneId("enterprise")
NOW_MS = BUILT_UNIX_MS + 30 * 86_400_000
HOUR_MS = 3_600_000


@dataclass
class Hub:
    """A hub with a boundary key; its clock is a test's."""

    ca: Authority
    boundary: Authority
    clock_ms: int = NOW_MS

    def token(self, nonce: bytes, zone: ZoneId = HUB) -> TimeToken:
        """A token as a hub makes it."""
        statement = TimeToken.statement_of(zone, nonce, self.clock_ms)
        value = sign(self.boundary.key, statement)
        return TimeToken(zone, nonce, self.clock_ms, Signature(value, certificate_der(self.boundary.certificate)))

    @property
    def trust(self) -> HubTrust:
        """What a box trusts at first contact."""
        return HubTrust(HUB, self.ca.certificate)

    @property
    def pinned(self) -> HubTrust:
        """What a box trusts once it is enrolled."""
        return HubTrust(HUB, self.ca.certificate, (certificate_der(self.boundary.certificate),))


@pytest.fixture
def hub() -> Hub:
    """Certificates that ended long ago: their dates decide nothing here."""
    ca = new_hub_ca(datetime(2001, 1, 1, tzinfo=UTC))
    return Hub(ca, new_device_ca(ca, HUB, datetime(2001, 1, 1, tzinfo=UTC)))


@dataclass
class Box:
    """A box: its clocks, its two files, and the keeper's clock, which a restart makes anew."""

    boottime_ms: int = 5_000
    boot: int = 1
    tpm: TpmClock | None = field(default_factory=lambda: TpmClock(40_000, 3, 0))
    offset: Offset | None = None
    last: LastToken | None = None

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """The keeper starts again."""
        self.clock = BoundaryClock(offset=self.offset, last=self.last)

    def reboot(self, off_ms: int) -> None:
        """Power off for a while; the TPM's clock stands still meanwhile."""
        self.boot += 1
        self.boottime_ms = 3_000
        if self.tpm is not None:
            self.tpm = replace(self.tpm, reset_count=self.tpm.reset_count + 1)
        assert off_ms >= 0
        self.restart()

    def passes(self, ms: int, *, suspended: bool = False) -> None:
        """Time passes; a TPM loses its power in suspend, CLOCK_BOOTTIME does not stop."""
        self.boottime_ms += ms
        if self.tpm is not None and not suspended:
            self.tpm = replace(self.tpm, clock_ms=self.tpm.clock_ms + ms)

    @property
    def readings(self) -> Readings:
        """The clocks now."""
        return Readings(self.boottime_ms * 1_000_000, f"boot-{self.boot}", self.tpm)

    def ask(self, hub: Hub, *, takes_ms: int = 40) -> Taken:
        """Nonce, token, taken; the hub reads its clock half-way."""
        nonce = self.clock.nonce(self.readings)
        self.passes(takes_ms // 2)
        hub.clock_ms += takes_ms // 2
        token = hub.token(nonce).render()
        self.passes(takes_ms - takes_ms // 2)
        hub.clock_ms += takes_ms - takes_ms // 2
        taken = self.clock.take(token, hub.trust, self.readings)
        self.offset, self.last = taken.offset, taken.last
        return taken

    def now(self) -> int | None:
        """Boundary time."""
        return self.clock.unix_ms(self.readings)

    @property
    def floor(self) -> int:
        """What boundary time is not before."""
        return self.clock.floor_unix_ms(self.readings)


def test_time_is_unknown_until_a_token_and_then_that_of_the_hub(hub: Hub) -> None:
    """Within half a round trip, and it goes on with CLOCK_BOOTTIME, suspend included."""
    box = Box()
    assert (box.now(), box.floor) == (None, BUILT_UNIX_MS)
    taken = box.ask(hub)
    assert (taken.unix_ms, taken.step_ms) == (hub.clock_ms, None)
    assert taken.offset.error_ns == 20_000_000
    for suspended in (False, True, False):
        box.passes(HOUR_MS, suspended=suspended)
        hub.clock_ms += HOUR_MS
        assert box.now() == hub.clock_ms
    assert box.ask(hub).step_ms == 0


def test_a_restart_of_the_keeper_keeps_the_time_and_a_reboot_does_not(hub: Hub) -> None:
    """The offset is one boot's; the floor is for ever."""
    box = Box()
    box.ask(hub)
    box.passes(60_000)
    box.restart()
    assert box.now() == hub.clock_ms + 60_000
    box.reboot(HOUR_MS)
    assert (box.now(), box.floor >= hub.clock_ms - 20) == (None, True)


def test_the_floor_rises_with_what_the_tpm_has_counted(hub: Hub) -> None:
    """By three quarters of it: its oscillator may be fast. Without it, by nothing."""
    box = Box()
    box.ask(hub)
    told = box.floor
    box.passes(HOUR_MS)
    assert box.floor == pytest.approx(told + HOUR_MS * 3 // 4, abs=1)
    box.reboot(HOUR_MS)
    box.passes(HOUR_MS)
    assert box.floor == pytest.approx(told + 2 * HOUR_MS * 3 // 4, abs=1)
    assert replace(box, tpm=None, last=box.last).floor == pytest.approx(told, abs=40)


@pytest.mark.parametrize("cleared", [TpmClock(10, 0, 0), TpmClock(10**12, 1, 0), TpmClock(20_000, 3, 0)])
def test_a_tpm_that_was_cleared_or_lost_some_of_its_clock_tells_too_little(hub: Hub, cleared: TpmClock) -> None:
    """Never too much, and never less than the last token."""
    box = Box()
    taken = box.ask(hub)
    box.tpm = cleared
    assert box.floor == taken.last.unix_ms


def test_a_hub_whose_clock_went_back_is_refused(hub: Hub) -> None:
    """Behind the floor; a small correction is taken as soon as the floor allows it."""
    box = Box()
    was = box.ask(hub).unix_ms
    box.passes(600_000)
    hub.clock_ms += 600_000 - HOUR_MS
    with pytest.raises(DeniedError, match="before what is known already"):
        box.ask(hub)
    assert box.now() == was + 600_040
    hub.clock_ms += HOUR_MS - 60_000
    assert box.ask(hub).step_ms == -60_000
    hub.clock_ms = BUILT_UNIX_MS - 1000
    with pytest.raises(DeniedError, match="before what is known already"):
        Box().ask(hub)


def test_a_small_step_ahead_is_followed_and_told(hub: Hub) -> None:
    """The box cannot know which of the two was wrong; who watches is told."""
    box = Box()
    box.ask(hub)
    hub.clock_ms += HOUR_MS
    assert box.ask(hub).step_ms == HOUR_MS


def test_a_large_step_ahead_is_believed_after_an_hour(hub: Hub) -> None:
    """While the hub says so the box goes on counting; when it says something else again, the hour begins anew."""
    box = Box()
    box.ask(hub)
    true_ms, jump_ms = hub.clock_ms, 10 * 365 * 24 * HOUR_MS
    for minute in range(0, 180, 10):
        wrong_ms = jump_ms if minute < 50 or minute >= 110 else 0
        hub.clock_ms = true_ms + wrong_ms
        if minute >= 170:
            assert box.ask(hub).step_ms == jump_ms
            break
        if wrong_ms:
            with pytest.raises(DeniedError, match=r"87600\.0 h more than has passed here"):
                box.ask(hub)
            assert box.now() == pytest.approx(true_ms + 40, abs=1)
        else:
            assert box.ask(hub).step_ms == pytest.approx(0, abs=1)
        box.passes(600_000 - 40)
        true_ms += 600_000
    else:
        pytest.fail("never believed")


def test_a_hub_that_says_something_else_each_time_is_never_believed(hub: Hub) -> None:
    """For a day."""
    box = Box()
    box.ask(hub)
    for step in range(1, 145):
        box.passes(600_000)
        hub.clock_ms += 600_000 + step * 3 * HOUR_MS
        with pytest.raises(DeniedError, match="not believed yet"):
            box.ask(hub)


def test_a_wrong_floor_is_lowered_by_whoever_enrols_the_box_anew(hub: Hub, tmp_path: Path) -> None:
    """A box that started while the hub was ten years ahead; boundary time itself comes with the next token."""
    store = TimeStore(tmp_path / "offset", tmp_path / "last")
    box = Box()
    hub.clock_ms += 10 * 365 * 24 * HOUR_MS
    store.save(box.ask(hub))
    hub.clock_ms -= 10 * 365 * 24 * HOUR_MS
    with pytest.raises(DeniedError, match="before what is known already"):
        box.ask(hub)
    box.clock.forget_floor()
    store.forget_floor()
    assert store.load()[1] is None
    assert box.floor == BUILT_UNIX_MS
    assert box.ask(hub).unix_ms == hub.clock_ms


def test_a_token_is_good_once_and_for_its_nonce(hub: Hub) -> None:
    """Replayed, of another box, over a nonce from before a restart or forgotten: refused."""
    box = Box()
    nonce = box.clock.nonce(box.readings)
    token = hub.token(nonce).render()
    box.clock.take(token, hub.pinned, box.readings)
    foreign = hub.token(BoundaryClock().nonce(box.readings)).render()
    early = hub.token(box.clock.nonce(box.readings)).render()
    kept = [box.clock.nonce(box.readings) for _ in range(OPEN_NONCES)][-1]
    for data in (token, foreign, early):
        with pytest.raises(DeniedError, match="not over a nonce"):
            box.clock.take(data, hub.pinned, box.readings)
    box.restart()
    with pytest.raises(DeniedError, match="not over a nonce"):
        box.clock.take(hub.token(kept).render(), hub.pinned, box.readings)


def test_a_token_that_took_too_long_is_refused_and_its_nonce_is_used(hub: Hub) -> None:
    """Ten seconds: certificates are backdated by five minutes."""
    for late_ns, good in ((ROUND_TRIP_NS, True), (ROUND_TRIP_NS + 1, False)):
        box = Box()
        nonce = box.clock.nonce(box.readings)
        token = hub.token(nonce).render()
        readings = replace(box.readings, boottime_ns=box.readings.boottime_ns + late_ns)
        if good:
            box.clock.take(token, hub.trust, readings)
        else:
            with pytest.raises(DeniedError, match="after its nonce"):
                box.clock.take(token, hub.trust, readings)
        with pytest.raises(DeniedError, match="not over a nonce"):
            box.clock.take(token, hub.trust, box.readings)


def test_only_a_good_signature_uses_a_nonce_up(hub: Hub) -> None:
    """Else anybody on the way could spend it."""
    box = Box()
    nonce = box.clock.nonce(box.readings)
    good = hub.token(nonce)
    forged = replace(good, unix_ms=good.unix_ms + 1).render()
    with pytest.raises(DeniedError, match="does not verify"):
        box.clock.take(forged, hub.trust, box.readings)
    box.clock.take(good.render(), hub.trust, box.readings)


@pytest.mark.parametrize(
    ("nonce", "unix_ms", "good"),
    [
        (bytes(16), 0, True),
        (bytes(32), LAST_UNIX_MS, True),
        (bytes(15), 0, False),
        (bytes(33), 0, False),
        (bytes(16), -1, False),
        (bytes(16), LAST_UNIX_MS + 1, False),
    ],
)
def test_a_token_is_read_within_its_bounds(hub: Hub, nonce: bytes, unix_ms: int, good: bool) -> None:
    """Whoever signed it."""
    hub.clock_ms = unix_ms
    token = hub.token(nonce)
    if good:
        assert TimeToken.parse(token.render()) == token
    else:
        with pytest.raises(DeniedError, match="out of range"):
            TimeToken.parse(token.render())


def test_a_token_may_say_exactly_what_is_known(hub: Hub) -> None:
    """Not a millisecond less."""
    for late_ms in (0, 1):
        clock = BoundaryClock(last=LastToken(hub.clock_ms + late_ms))
        nonce = clock.nonce(Readings(1, "boot"))
        if late_ms:
            with pytest.raises(DeniedError, match="it says 1 ms before"):
                clock.take(hub.token(nonce).render(), hub.trust, Readings(2, "boot"))
        else:
            clock.take(hub.token(nonce).render(), hub.trust, Readings(2, "boot"))


def test_a_tpm_that_was_not_read_then_tells_nothing_now(hub: Hub) -> None:
    """The floor is the token."""
    clock = BoundaryClock(last=LastToken(hub.clock_ms))
    assert clock.floor_unix_ms(Readings(1, "boot", TpmClock(10**12, 1, 0))) == hub.clock_ms


def test_who_may_tell_the_time(hub: Hub) -> None:
    """At first contact any device CA of the hub's zone; later the registered ones; never another zone's."""
    plant = ZoneId("plant-a")
    renewed = Hub(hub.ca, new_device_ca(hub.ca, HUB, datetime(2003, 1, 1, tzinfo=UTC)))
    other_zone = Hub(hub.ca, new_device_ca(hub.ca, plant, datetime(2003, 1, 1, tzinfo=UTC)))
    foreign_ca = new_hub_ca(datetime(2001, 1, 1, tzinfo=UTC))
    foreign = Hub(foreign_ca, new_device_ca(foreign_ca, HUB, datetime(2001, 1, 1, tzinfo=UTC)))
    nonce = bytes(32)
    hub.trust.check(renewed.token(nonce))
    for trust, token in (
        (hub.pinned, renewed.token(nonce)),
        (hub.trust, other_zone.token(nonce)),
        (hub.trust, other_zone.token(nonce, plant)),
        (hub.trust, foreign.token(nonce)),
        (hub.trust, hub.token(nonce, plant)),
    ):
        with pytest.raises(DeniedError) as refused:
            trust.check(token)
        assert refused.value.reason is Reason.BAD_TIME_TOKEN


# -- mutants -----------------------------------------------------------------------------------------------------------


def token_mutants(hub: Hub, good: TimeToken, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Tokens that are not quite the good one, by class."""
    yield from text_mutants(good.render(), rng)
    yield from content_mutants(hub, good)
    yield from signature_mutants(hub, good)


def text_mutants(text: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """Other bytes."""
    for at in range(0, len(text) * 8, 7):
        yield "bit", text[: at // 8] + bytes([text[at // 8] ^ 1 << at % 8]) + text[at // 8 + 1 :]
    for at in range(0, len(text), 11):
        yield "cut", text[:at]
    for size in (1, 7, 64):
        yield "longer", text + rng.randbytes(size)
    yield "spaced", text.replace(b",", b", ")
    yield "doubled", text.replace(b"{", b'{"zone":"enterprise",', 1)
    yield "unknown field", text.replace(b"{", b'{"a":1,', 1)


def content_mutants(hub: Hub, good: TimeToken) -> Iterator[tuple[str, bytes]]:
    """Other content, some of it well signed."""
    for step in (-86_400_000, -1, 1, 1000, 86_400_000, 10 * 365 * 86_400_000):
        yield "other time", replace(good, unix_ms=good.unix_ms + step).render()
    for position in range(32):
        changed = good.nonce[:position] + bytes([good.nonce[position] ^ 1]) + good.nonce[position + 1 :]
        yield "other nonce", replace(good, nonce=changed).render()
        yield "other nonce, signed", hub.token(changed).render()
    for size in (0, 8, 15, 33, 64):
        yield "nonce size", hub.token(bytes(size)).render()
    for zone in ("plant-a", "enterprise2", "e", "all", "Enterprise"):
        yield "other zone, signed", hub.token(good.nonce, ZoneId(zone)).render()


def signature_mutants(hub: Hub, good: TimeToken) -> Iterator[tuple[str, bytes]]:
    """Other signatures and certificates."""
    r, s = decode_dss_signature(good.signature.value)
    signatures = [encode_dss_signature(r, ORDER - s), encode_dss_signature(s, r), b"", good.signature.value + b"\0"]
    stranger = ec.generate_private_key(ec.SECP256R1())
    signatures += [sign(stranger, good.statement()) for _ in range(8)]
    signatures += [
        sign(hub.boundary.key, kind + good.statement()[12:]) for kind in (b"bsfg.v1 receipt", b"bsfg.v1 evidence", b"")
    ]
    signatures += [hub.boundary.key.sign(good.statement(), ec.ECDSA(hashes.SHA384()))]
    for value in signatures:
        yield "other signature", replace(good, signature=replace(good.signature, value=value)).render()
    certificate = good.signature.certificate
    # How many bits of its last byte a signature leaves unused may be written in more than one way.
    unused = len(certificate) - len(x509.load_der_x509_certificate(certificate).signature) - 1
    for at in (at for at in range(0, len(certificate) * 8, 61) if at // 8 != unused):
        flipped = certificate[: at // 8] + bytes([certificate[at // 8] ^ 1 << at % 8]) + certificate[at // 8 + 1 :]
        yield "other certificate", replace(good, signature=replace(good.signature, certificate=flipped)).render()
    for other in (b"", certificate[:-1], certificate_der(hub.ca.certificate)):
        yield "other certificate", replace(good, signature=replace(good.signature, certificate=other)).render()


@pytest.mark.parametrize("pinned", [False, True])
def test_no_mutant_of_a_token_is_taken(hub: Hub, pinned: bool) -> None:
    """The good one is, last, with the same nonce: none of them has used it up."""
    clock = BoundaryClock()
    readings = Readings(10**9, "boot")
    nonce = clock.nonce(readings)
    good, trust = hub.token(nonce), hub.pinned if pinned else hub.trust
    tried: dict[str, set[bytes]] = {}
    for kind, data in token_mutants(hub, good, random.Random(3)):
        if data == good.render():
            continue
        tried.setdefault(kind, set()).add(data)
        with pytest.raises(DeniedError) as refused:
            clock.take(data, trust, readings)
        assert refused.value.reason is Reason.BAD_TIME_TOKEN
    assert len(set().union(*tried.values())) >= 400
    assert len(tried) >= 11
    assert clock.take(good.render(), trust, readings).unix_ms == hub.clock_ms


# -- files -------------------------------------------------------------------------------------------------------------


def test_what_is_kept_comes_back(tmp_path: Path, hub: Hub) -> None:
    """Both files; damaged ones count as absent."""
    store = TimeStore(tmp_path / "offset", tmp_path / "last")
    assert store.load() == (None, None)
    box = Box()
    taken = box.ask(hub)
    store.save(taken)
    assert store.load() == (taken.offset, taken.last)
    box.tpm = None
    taken = box.ask(hub)
    store.save(taken)
    assert store.load() == (taken.offset, taken.last)
    for text in (b"", b"[]", b'{"boot_id": 1}', b'{"unix_ms": -1, "tpm": null}', b'{"unix_ms": 1, "tpm": {}}', b"\xff"):
        store.durable.write_bytes(text)
        store.volatile.write_bytes(text)
        assert store.load() == (None, None)
    store.durable.write_bytes(b'{"unix_ms": 1.5, "tpm": null}')
    store.volatile.write_bytes(b'{"boot_id": 1, "offset_ns": 2, "error_ns": 3}')
    assert store.load() == (None, None)


def test_the_machine_tells_its_clocks() -> None:
    """CLOCK_BOOTTIME grows, and the boot has an id."""
    first, second = machine_readings(), machine_readings(TpmClock(1, 2, 3))
    assert first.boottime_ns < second.boottime_ns
    assert first.boot_id == second.boot_id
    assert len(first.boot_id) == 36
    assert second.tpm == TpmClock(1, 2, 3)


def test_an_image_says_when_it_was_built(tmp_path: Path) -> None:
    """Later than this software, or it is not believed."""
    path = tmp_path / "built"
    assert built_unix_ms(None) == BUILT_UNIX_MS
    for text, built in (("1900000000\n", 1_900_000_000_000), ("1000", BUILT_UNIX_MS), ("x", BUILT_UNIX_MS)):
        path.write_text(text)
        assert built_unix_ms(path) == built
    assert BoundaryClock(1_900_000_000_000).floor_unix_ms(Readings(1, "b")) == 1_900_000_000_000
    assert BoundaryClock(1).floor_unix_ms(Readings(1, "b")) == BUILT_UNIX_MS
