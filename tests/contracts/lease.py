# SPDX-License-Identifier: Apache-2.0
"""What every egress lease does: the contract suite of :class:`appliance.watchdog.lease.EgressLease`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.watchdog.lease import LEASE_S, Blackout, EgressLease


@dataclass(frozen=True, slots=True)
class World:
    """A lease, and what a packet would find.

    :param is_open: whether packets may leave. :param wait: let seconds pass.
    :param break_it: take away what the lease stands in; :param mend: give it back.
    :param unjudge: take away what judges the frames on the uplink itself; ``mend`` gives it back too.
    """

    lease: EgressLease
    is_open: Callable[[], bool]
    wait: Callable[[float], None]
    break_it: Callable[[], None]
    mend: Callable[[], None]
    unjudge: Callable[[], None]


@dataclass(frozen=True, slots=True)
class DarkWorld:
    """A blackout and a lease on the same uplink, and what packets would find.

    :param is_open: whether packets to the hub may leave. :param early: whether those may that may before health is
        proven. :param break_it: take the firewall away; :param mend: load it anew.
    """

    blackout: Blackout
    lease: EgressLease
    is_open: Callable[[], bool]
    early: Callable[[], bool]
    break_it: Callable[[], None]
    mend: Callable[[], None]


class BlackoutContract:
    """Subclass it with a fixture ``dark_world``."""

    def test_dark_ends_everything_at_once(self, dark_world: DarkWorld) -> None:
        """The lease, and what needs none; a renewal changes nothing any more."""
        dark_world.lease.renew()
        assert dark_world.blackout.darkened() is None
        assert (dark_world.is_open(), dark_world.early()) == (True, True)
        dark_world.blackout.dark("kexec_loaded")
        assert (dark_world.is_open(), dark_world.early()) == (False, False)
        dark_world.lease.renew()
        assert (dark_world.is_open(), dark_world.early()) == (False, False)
        assert dark_world.blackout.darkened() == "kexec_loaded"

    def test_it_is_set_again_and_again(self, dark_world: DarkWorld) -> None:
        """The last reason stays: who was in doubt may know by now."""
        for why in ("in_doubt", "kexec_loaded", "kexec_loaded"):
            dark_world.blackout.dark(why)
            assert dark_world.blackout.darkened() == why
            assert not dark_world.early()

    def test_light_ends_it_and_opens_nothing(self, dark_world: DarkWorld) -> None:
        """The lease is a matter of its own; and what was never dark can be lighted."""
        dark_world.blackout.light()
        dark_world.lease.renew()
        dark_world.blackout.dark("kexec_loaded")
        dark_world.blackout.light()
        assert dark_world.blackout.darkened() is None
        assert (dark_world.is_open(), dark_world.early()) == (False, True)
        dark_world.lease.renew()
        assert dark_world.is_open()

    def test_it_is_dark_without_a_firewall(self, dark_world: DarkWorld) -> None:
        """Whoever took the firewall away may be the reason; and it stays dark when the firewall is loaded anew."""
        dark_world.break_it()
        for _ in range(2):
            dark_world.blackout.dark("firewall_changed")
            assert dark_world.blackout.darkened() == "firewall_changed"
            assert (dark_world.is_open(), dark_world.early()) == (False, False)
        dark_world.mend()
        assert dark_world.blackout.darkened() == "firewall_changed"
        assert (dark_world.is_open(), dark_world.early()) == (False, False)
        dark_world.blackout.dark("firewall_changed")
        dark_world.blackout.light()
        assert dark_world.early()

    def test_a_firewall_that_is_away_does_not_say_whether_it_is_dark(self, dark_world: DarkWorld) -> None:
        """Nobody may take that for light."""
        dark_world.break_it()
        with pytest.raises(UnavailableError):
            dark_world.blackout.darkened()


class LeaseContract:
    """Subclass it with a fixture ``world``."""

    def test_it_is_closed_until_it_is_renewed(self, world: World) -> None:
        """And closing what is closed is no error."""
        assert not world.is_open()
        world.lease.close()
        assert not world.is_open()
        world.lease.renew()
        assert world.is_open()

    def test_it_ends_by_itself(self, world: World) -> None:
        """Nobody has to do anything for it."""
        world.lease.renew()
        world.wait(LEASE_S - 1.5)
        assert world.is_open()
        world.wait(2.5)
        assert not world.is_open()

    def test_a_renewal_lasts_from_then_on(self, world: World) -> None:
        """Adding to a set what it has already would not make it last longer."""
        world.lease.renew()
        world.wait(LEASE_S - 2.0)
        world.lease.renew()
        world.wait(3.5)
        assert world.is_open()

    def test_closing_is_at_once(self, world: World) -> None:
        """And can be undone by the next renewal alone."""
        world.lease.renew()
        world.lease.close()
        assert not world.is_open()
        world.lease.renew()
        assert world.is_open()

    def test_without_a_judge_on_the_device_it_is_closed_and_stays_so(self, world: World) -> None:
        """At once, not when it would have ended: packet sockets would get out meanwhile."""
        world.lease.renew()
        world.unjudge()
        for _ in range(2):
            with pytest.raises(UnavailableError) as caught:
                world.lease.renew()
            assert caught.value.reason is Reason.FIREWALL_FAULT
            assert not world.is_open()
        world.lease.close()
        world.mend()
        world.lease.renew()
        assert world.is_open()

    def test_what_is_broken_says_so_and_works_again(self, world: World) -> None:
        """A firewall that is being loaded anew has no set for a moment."""
        world.break_it()
        for call in (world.lease.renew, world.lease.close):
            with pytest.raises(UnavailableError) as caught:
                call()
            assert caught.value.reason is Reason.FIREWALL_FAULT
        world.mend()
        world.lease.renew()
        assert world.is_open()
