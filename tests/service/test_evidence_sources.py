# SPDX-License-Identifier: Apache-2.0
"""Sources of evidence as they are: the kernel's firewall with the image's rules, and a journal that journald wrote."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

from appliance.watchdog.evidence.journal import read_journal
from appliance.watchdog.evidence.sources import read_firewall
from tests.conftest import IN_CI
from tests.tampering_network import network

JOURNALD = Path("/usr/lib/systemd/systemd-journald")
KERNEL_LOG = Path("/dev/kmsg")


def test_the_images_firewall_is_counted(tmp_path: Path) -> None:
    """By rule; a packet that is refused counts, and the sets say whether the uplink is open or dark."""
    with network(tmp_path) as net:
        before = net.within(read_firewall)
        assert {name.split(":")[0] for name in before} == {"inet", "netdev", "set"}
        assert len(before) > 30
        assert before["set:inet:lease"].packets == before["set:inet:dark"].packets == 0
        net.nft('add element inet bsfg dark { "uplink0" }')
        net.nft('add element inet bsfg lease { "uplink0" timeout 5s }')
        net.within(_datagram)
        after = net.within(read_firewall)
        assert after["set:inet:dark"].packets == after["set:inet:lease"].packets == 1
        assert set(after) == set(before)
        assert sum(each.packets for each in after.values()) > sum(each.packets for each in before.values())


def _datagram() -> None:
    """One packet on loopback, which the rules let through."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.sendto(b"x", ("127.0.0.1", 9))


async def test_a_real_journal_is_read_and_cleaned(tmp_path: Path) -> None:
    """The kernel's lines stay, without the secret in them; what nobody vouches for is left out."""
    if os.geteuid() or not JOURNALD.exists() or not shutil.which("journalctl") or not os.access(KERNEL_LOG, os.W_OK):
        why = "needs root, systemd-journald and /dev/kmsg"
        if IN_CI:
            pytest.fail(why)
        pytest.skip(why)
    word, secret = f"bsfg{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    script = (
        "mount -t tmpfs none /run && mount -t tmpfs none /var/log || exit 1\n"
        "mkdir -p /run/systemd/journal /run/log/journal\n"
        f"{JOURNALD} & daemon=$!\n"
        "while ! [ -S /run/systemd/journal/stdout ]; do sleep 0.05; done\n"
        f"echo '<4>{word} password={secret}' > {KERNEL_LOG}\n"
        f"echo '{word} from nowhere' | systemd-cat -t bsfg-agent\n"
        f"for each in 1 2 3 4 5 6 7 8 9; do journalctl | grep -q '{word} from nowhere' && break; sleep 0.1; done\n"
        'journalctl --sync; cp -r /run/log/journal/. "$0"; kill $daemon\n'
    )
    folder = tmp_path / "journal"
    folder.mkdir()
    done = subprocess.run(
        ["unshare", "-m", "-f", "sh", "-c", script, str(folder)], capture_output=True, timeout=30, check=False
    )
    assert any(folder.rglob("*.journal")), done.stderr
    began = time.monotonic()
    window = await read_journal(("journalctl", f"--directory={next(folder.iterdir())}"))
    assert time.monotonic() - began < 5
    ours = [line for line in window.lines if word in line.text]
    assert [(line.unit, line.text) for line in ours] == [("kernel", f"{word} [withheld named secret]")]
    assert window.withheld >= 1
    assert not any(secret in line.text for line in window.lines)
