# SPDX-License-Identifier: Apache-2.0
"""``/var`` is exchanged for another that carries the true one's label and UUID: no key of the box is to be had with it.

Two of three replacements do not open. The third does, because the disk itself says how it is opened: a token in its
header, sealed on the box's own TPM by whoever had both on the bench. Then everything of the box's identity must refuse:
PCR 15 holds another volume's key.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.vm import guest, pace, swapped
from tools.vm.box import Box
from tools.vm.guest import Documents, state

QUIET_S = 30
"""A while in which nothing may change."""
PASSPHRASE = "known to the attacker"


def exchange(box: Box, content: Path) -> None:
    """Put a replacement where ``/var`` is."""
    var = box.disk.partition("var")
    box.disk.replace(var, content)
    content.unlink()


def test_an_unencrypted_var_is_not_mounted(bench: Bench, control: Callable[[], None]) -> None:
    """A plain file system."""
    control()
    box = bench.box()
    content = bench.folder / "plain"
    swapped.plain_ext4(content, box.disk.partition("var").size)
    exchange(box, content)
    with box.running("attack") as machine:
        opens_nothing(machine)


@pytest.mark.parametrize("given", [False, True])
def test_a_var_with_a_known_passphrase_is_not_opened(given: bool, bench: Bench, control: Callable[[], None]) -> None:
    """Nobody asks for it; and what is handed over as a credential is not taken."""
    control()
    box = bench.box()
    var = box.disk.partition("var")
    content = bench.folder / "luks"
    swapped.luks_with_passphrase(content, var.size, PASSPHRASE, swapped.luks_uuid(box.disk, var))
    exchange(box, content)
    strings = (f"io.systemd.credential:cryptsetup.passphrase={PASSPHRASE}",) if given else ()
    with box.running("attack", strings=strings) as machine:
        opens_nothing(machine)


def test_a_var_sealed_on_the_same_tpm_gets_no_key(bench: Bench, control: Callable[[], None]) -> None:
    """It opens, and with it come the box's own sealed files, stolen before: the TPM opens none of them.

    So the box can prove nothing to its hub, which goes on knowing the true one only.
    """
    control()
    stolen = swapped.unpacked(bench.golden.state, bench.folder / "stolen")  # as from a backup
    hub, box = bench.hub(), bench.box()
    var = box.disk.partition("var")
    content = bench.folder / "sealed"
    swapped.luks_sealed_to(box.tpm / "state", content, var.size, swapped.luks_uuid(box.disk, var), stolen)
    exchange(box, content)
    with hub.running(), box.running("attack") as machine:
        agent = machine.wait_agent()
        assert agent.python(f"import os; print(os.path.exists('/var/{swapped.MARKER}'))") == "True", "it was not opened"
        seen = guest.observe(agent)
        assert seen["pcrs"]["7"] == bench.golden.report["seen"]["pcrs"]["7"]
        assert seen["pcrs"]["15"] != bench.golden.report["seen"]["pcrs"]["15"]
        guest.wait_documents(agent, keys_refused, "the keeper is refused its key", 180)
        before = len(hub.received())
        time.sleep(pace.limit(QUIET_S))
        found = guest.documents(agent)
        assert keys_refused(found)
        assert state(found, "watchdog") != "open"
        assert state(found, "local") == "failed"
        assert len(hub.received()) == before


def keys_refused(found: Documents) -> bool:
    """The TPM has refused the keeper's key; a while later the watchdog has it locked because of that."""
    return state(found, "keeper") in {"tpm_refused", "tpm_fault", "latched"}
