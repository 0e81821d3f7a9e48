# SPDX-License-Identifier: Apache-2.0
"""One bit of the root partition is changed: what is in that block is never used, and the box knows.

A box that has started, and meets such a block, goes into quarantine by the kernel's own word.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.flash.gpt import ROOT_VERITY_SIG_X86_64, ROOT_VERITY_X86_64, ROOT_X86_64
from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.vm import guest, pace, roots
from tools.vm.faults import VmError
from tools.vm.journey import quarantined

READ = """
import os, sys
path, block = sys.argv[1], 1 << 20
bad = total = 0
with open(path, "rb", buffering=0) as file:
    size = os.lseek(file.fileno(), 0, os.SEEK_END)
    for at in range(0, size, block):
        os.lseek(file.fileno(), at, os.SEEK_SET)
        left = min(block, size - at)
        try:
            while left:  # what is before a bad block comes first; the error is the next answer
                got = len(file.read(left))
                left, total = left - got, total + got
        except OSError:
            bad += 1
print(bad, total, size)
"""


def test_a_changed_block_is_never_handed_out(bench: Bench, control: Callable[[], None]) -> None:
    """In a file that the boot does not read: the box starts; reading that file, or all of the disk, is an error.

    Nobody but the reader need notice: the kernel tells the watchdog, and the box goes into quarantine. The same reading
    finds no error on the unmodified root, in the last test of this file, and that box stays calm.
    """
    control()
    box = bench.box()
    victim = roots.damage_seldom_read_file(box.disk, bench.folder / "root.raw")
    with box.running("attack") as machine:
        agent = machine.wait_agent()
        stays_calm(agent)  # what was read before anybody listened, the scrub reads again: tests/vm/test_scrub.py
        with pytest.raises(VmError, match="Input/output error"):
            agent.read(victim.path)
        watchdog = guest.wait_documents(agent, quarantined, "the box is in quarantine", 240)["watchdog"]
        assert (watchdog["quarantine"]["code"], watchdog["quarantine"]["probe"]) == ("verity_corrupt", "verity")
        assert watchdog["quarantine"]["detail"].startswith("data block ")
        bad, _, size = agent.python(READ, "/dev/mapper/root", seconds=pace.limit(240)).split()
        assert int(bad) >= 1
        assert int(size) > 0
        assert "corrupted" in agent.run("/usr/sbin/veritysetup", "status", "root").text


def test_a_changed_superblock_does_not_start(bench: Bench, control: Callable[[], None]) -> None:
    """What every boot reads."""
    control()
    box = bench.box()
    box.disk.flip(box.disk.of_kind(ROOT_X86_64), 1024)
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_changed_hashes_do_not_start(bench: Bench, control: Callable[[], None]) -> None:
    """The root hash stands in the signed kernel image, so the tree cannot be made anew either."""
    control()
    box = bench.box()
    hashes = box.disk.of_kind(ROOT_VERITY_X86_64)
    top = roots.top_hash_block(box.disk, hashes)
    box.disk.flip(hashes, top)
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_the_signature_partition_is_not_what_the_kernel_asks(bench: Bench, control: Callable[[], None]) -> None:
    """The kernel takes the root hash's signature from the signed kernel image: damage here changes nothing.

    Nothing of this root is changed, so all of it can be read: the file, too, whose change the first test finds.
    """
    control()
    box = bench.box()
    victim = roots.seldom_read_file(box.disk, box.disk.of_kind(ROOT_X86_64), bench.folder / "root.raw")
    box.disk.flip(box.disk.of_kind(ROOT_VERITY_SIG_X86_64), 10)
    with box.running("attack") as machine:
        agent = machine.wait_agent()
        assert agent.read(victim.path)
        stays_calm(agent)
        bad, _, size = agent.python(READ, "/dev/mapper/root", seconds=pace.limit(240)).split()
        assert (bad, size != "0") == ("0", True)
        machine.power_off()
