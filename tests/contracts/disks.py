# SPDX-License-Identifier: Apache-2.0
"""What every implementation of :class:`Disks` and :class:`Target` does: the contract suite."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.flash.disks import Disks

SIZE = 8 << 20


@dataclass(frozen=True)
class World:
    """The machine that the suite needs.

    ``sda`` runs the system, ``sdb`` is a stick with the serial number ``STICK1`` and one partition, ``sr0`` is no disk;
    ``/dev/disk/by-id/usb-stick`` leads to ``sdb``.
    """

    disks: Disks


class DisksContract:
    """Needs a fixture ``world``."""

    def test_all_lists_disks_by_name(self, world: World) -> None:
        """Those of unknown kind are left out."""
        assert [disk.name for disk in world.disks.all()] == ["sda", "sdb"]

    def test_facts_of_a_stick(self, world: World) -> None:
        """All that people choose by."""
        stick = world.disks.facts(Path("/dev/sdb"))
        assert (stick.name, stick.node, stick.serial, stick.size) == ("sdb", Path("/dev/sdb"), "STICK1", SIZE)
        assert (stick.model, stick.transport, stick.removable) == ("SanDisk Ultra", "usb", True)
        assert (stick.system, stick.mounts, stick.swaps, stick.holders, stick.loops) == ((),) * 5
        assert not stick.read_only

    def test_the_system_is_seen(self, world: World) -> None:
        """Where it is mounted."""
        assert world.disks.facts(Path("/dev/sda")).system == ("/",)

    def test_a_link_leads_to_the_disk(self, world: World) -> None:
        """As udev makes them."""
        assert world.disks.facts(Path("/dev/disk/by-id/usb-stick")).name == "sdb"

    @pytest.mark.parametrize("path", ["/dev/sdb1", "/dev/nothing", "/etc/passwd"])
    def test_what_is_no_whole_disk_is_refused(self, world: World, path: str) -> None:
        """A partition, nothing, and something else."""
        with pytest.raises(RefusedError) as refused:
            world.disks.facts(Path(path))
        assert refused.value.reason is Reason.DISK_REFUSED

    def test_a_disk_that_was_exchanged_is_not_opened(self, world: World) -> None:
        """The facts are compared once more."""
        stick = world.disks.facts(Path("/dev/sdb"))
        with pytest.raises(RefusedError) as refused:
            world.disks.open(replace(stick, serial="STICK2"))
        assert refused.value.reason is Reason.DISK_REFUSED

    def test_what_is_written_is_read_back(self, world: World) -> None:
        """At odd offsets, too."""
        target = world.disks.open(world.disks.facts(Path("/dev/sdb")))
        try:
            assert target.size == SIZE
            target.write(4096, b"a" * 10_000)
            target.write(5000, b"b" * 7)
            target.flush()
            expected = b"a" * 904 + b"b" * 7 + b"a" * 9
            assert target.read(4096, 920) == target.read_back(4096, 920) == expected
            assert target.read_back(5001, 3) == b"bbb"
            assert target.read_back(SIZE - 5, 5) == bytes(5)
        finally:
            target.close()

    def test_nothing_is_written_beyond_the_end(self, world: World) -> None:
        """Nor read."""
        target = world.disks.open(world.disks.facts(Path("/dev/sdb")))
        try:
            for act in (
                lambda: target.write(SIZE - 1, b"ab"),
                lambda: target.read(SIZE - 1, 2),
                lambda: target.read_back(SIZE - 1, 2),
            ):
                with pytest.raises(UnavailableError) as failed:
                    act()
                assert failed.value.reason is Reason.DISK_FAILED
        finally:
            target.close()
