# SPDX-License-Identifier: Apache-2.0
"""What every seal of a local root does: the contract suite of :class:`appliance.box.sealing.RootSeal`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.box.sealing import RootSeal

SECRET = b"a" * 64 + b"\n"


@dataclass(frozen=True, slots=True)
class World:
    """A seal on a box, and one on another box.

    :param alter: boot the box otherwise: what was sealed may not open. :param restore: boot it as before.
    """

    seal: RootSeal
    foreign: RootSeal
    alter: Callable[[], None]
    restore: Callable[[], None]


class SealContract:
    """Subclass it with a fixture ``world``."""

    def test_what_is_sealed_opens(self, world: World) -> None:
        """And is not in what is kept."""
        sealed = world.seal.seal(SECRET)
        assert SECRET.strip() not in sealed
        assert world.seal.open(sealed) == SECRET

    def test_it_opens_again_after_a_restart(self, world: World) -> None:
        """Of the same box, in the same state."""
        sealed = world.seal.seal(SECRET)
        world.restore()
        assert world.seal.open(sealed) == SECRET

    def test_another_state_does_not_open_it_and_this_one_does_again(self, world: World) -> None:
        """Nothing is lost by an attempt that fails."""
        sealed = world.seal.seal(SECRET)
        world.alter()
        with pytest.raises(UnavailableError) as caught:
            world.seal.open(sealed)
        assert caught.value.reason is Reason.BAD_LOCAL_KEYS
        world.restore()
        assert world.seal.open(sealed) == SECRET

    def test_another_box_does_not_open_it(self, world: World) -> None:
        """Whoever has the file has nothing."""
        with pytest.raises(UnavailableError):
            world.foreign.open(world.seal.seal(SECRET))

    @pytest.mark.parametrize("at", [0, 40, -20])
    def test_a_changed_file_does_not_open(self, world: World, at: int) -> None:
        """Whatever was changed in it; the one that was not does, in the same run."""
        sealed = world.seal.seal(SECRET)
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(UnavailableError):
            world.seal.open(bytes(changed))
        world.restore()  # a TPM without a resource manager keeps the sessions of attempts that failed
        assert world.seal.open(sealed) == SECRET
