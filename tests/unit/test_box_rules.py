# SPDX-License-Identifier: Apache-2.0
"""Rules of a box that need no files: sharing its disk, remembering names, when to ask the hub again."""

from __future__ import annotations

from ipaddress import ip_address
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import DeniedError, UnavailableError
from appliance.boundary.names import Category, ZoneId
from appliance.boundary.policy import CategoryPolicy, PeerPolicy, WhenFull, ZonePolicy
from appliance.boundary.reasons import Reason
from appliance.box.enrolling import (
    LONGEST_PAUSE_S,
    REFUSED_PAUSE_S,
    WAITING_PAUSE_S,
    Standing,
)
from appliance.box.found import EACH_AT_MOST
from appliance.box.naming import AGAIN_S, FAILED_AGAIN_S, REMEMBERED_S, NameBook
from appliance.box.states import EnrolState
from appliance.box.storage import DEAD_LETTER_BYTES, EPOCHS, MIB, share
from appliance.factlog import streams
from appliance.keys.enrolment.documents import Pending, Waits

GIB = 1024 * MIB
AUDIT, READINGS = Category("audit"), Category("telemetry")


def policy(audit: int, readings: int, append: tuple[Category, ...] = (AUDIT,)) -> ZonePolicy:
    """Two categories and the hub."""
    categories = {
        AUDIT: CategoryPolicy(WhenFull.REJECT, audit),
        READINGS: CategoryPolicy(WhenFull.DROP_OLDEST, readings),
    }
    peer = PeerPolicy(frozenset(categories), frozenset(append))
    return ZonePolicy(ZoneId("plant-a"), categories, {ZoneId("enterprise"): peer})


def taken(shared: ZonePolicy) -> int:
    """What JetStream sets aside for all streams of a zone."""
    received = sum(shared.categories[name].max_bytes for peer in shared.peers.values() for name in peer.append)
    return DEAD_LETTER_BYTES + sum(each.max_bytes for each in shared.categories.values()) + EPOCHS * received


@given(st.integers(256 * MIB, 4096 * GIB), st.integers(MIB, 512 * GIB), st.integers(MIB, 512 * GIB), st.booleans())
def test_streams_always_fit_and_the_disk_is_never_full(var: int, audit: int, readings: int, both: bool) -> None:
    """Whatever a site wants, on whatever disk: JetStream refuses no stream, and the reserve stays free."""
    wanted = policy(audit, readings, (AUDIT, READINGS) if both else (AUDIT,))
    storage = share(var, wanted)
    fitted = storage.fitted(wanted)
    assert taken(fitted) <= storage.facts
    assert all(each.max_bytes >= MIB for each in fitted.categories.values())
    assert 0 <= storage.part <= 1
    if storage.part == 1:
        assert fitted == wanted
    if var >= 512 * MIB:
        assert storage.facts + storage.control + storage.reserve <= var
        assert storage.reserve >= var // 5


def test_what_fits_is_left_as_the_site_wants_it() -> None:
    """And a small disk gives each category the same part."""
    wanted = policy(4 * GIB, 2 * GIB)
    assert share(64 * GIB, wanted).part == 1.0
    small = share(4 * GIB, wanted)
    audit, readings = (small.fitted(wanted).categories[name].max_bytes for name in (AUDIT, READINGS))
    assert small.part < 0.5
    assert abs(audit - 2 * readings) <= 2


def test_dead_letters_take_what_the_stream_takes() -> None:
    """The number stands twice: importing the other brings the NATS client into a small program."""
    assert DEAD_LETTER_BYTES == streams.DEAD_LETTER_BYTES


# -- names -------------------------------------------------------------------------------------------------------------

ONE, TWO = ip_address("203.0.113.1"), ip_address("203.0.113.2")


def test_an_address_is_remembered_for_an_hour() -> None:
    """One answer names not all servers; a resolver that fails takes nothing away."""
    book = NameBook(("hub.example.com",))
    book.found("hub.example.com", [ONE], 0.0)
    book.found("hub.example.com", [TWO], REMEMBERED_S - 1)
    assert book.resolved() == {"hub.example.com": (ONE, TWO)}
    book.failed("hub.example.com", "no answer")
    assert book.resolved() == {"hub.example.com": (ONE, TWO)}
    assert (book.pause_s, dict(book.problems)) == (FAILED_AGAIN_S, {"hub.example.com": "no answer"})
    book.found("hub.example.com", [TWO], REMEMBERED_S + 1)
    assert book.resolved() == {"hub.example.com": (TWO,)}
    assert book.pause_s == AGAIN_S


@pytest.mark.parametrize("text", ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "169.254.1.1", "fe80::1", "ff02::1"])  # noqa: S104
def test_an_answer_that_cannot_be_is_not_believed(text: str) -> None:
    """A resolver that lies could have the box dial itself."""
    book = NameBook(("hub.example.com",))
    book.found("hub.example.com", [ip_address(text)], 0.0)
    assert book.resolved() == {}
    assert book.problems


def test_a_resolver_opens_the_box_to_few() -> None:
    """The newest of them."""
    book = NameBook(("hub.example.com",))
    for number in range(200):
        book.found("hub.example.com", [ip_address(f"203.0.113.{number + 1}")], float(number))
    assert len(book.resolved()["hub.example.com"]) == EACH_AT_MOST
    assert ip_address("203.0.113.200") in book.resolved()["hub.example.com"]


# -- when to ask the hub again -----------------------------------------------------------------------------------------


def test_a_hub_that_is_away_is_called_less_and_less() -> None:
    """Each pause is spread, and none is longer than a minute."""
    standing = Standing(Random(7))
    pauses = [standing.note(UnavailableError(Reason.LINK_DOWN)) for _ in range(20)]
    assert standing.state is EnrolState.CALLING
    assert 1 <= pauses[0] <= 2
    assert all(LONGEST_PAUSE_S / 2 <= pause <= LONGEST_PAUSE_S for pause in pauses[6:])
    assert len(set(pauses[6:])) > 1


def test_a_refusal_is_asked_about_again() -> None:
    """An operator may mend it at the hub; and a person who decides is asked every ten seconds."""
    standing = Standing()
    assert standing.note(DeniedError(Reason.EK_UNKNOWN_VENDOR)) == REFUSED_PAUSE_S
    assert standing.state is EnrolState.REFUSED
    waits = Pending(ZoneId("plant-a"), "ab" * 32, Waits.APPROVAL)
    assert standing.note(waits) == WAITING_PAUSE_S
    assert (standing.state, standing.problem) == (EnrolState.WAITING, None)
