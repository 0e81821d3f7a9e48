# SPDX-License-Identifier: Apache-2.0
"""A box that is tampered with while it runs: dark, its key locked over a power cut, until two operators release it.

Root in the guest does the tampering, as whoever has taken over a service and more would. Frames are counted outside
the machine, by the emulator. What is seen after the first finding changes nothing any more; it is noted, and tells
that each kind is found by its own code.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.vm.conftest import Bench
from tests.vm.releasing import signed_by_both
from tools.vm import guest, pace
from tools.vm.agent import PYTHON, Agent
from tools.vm.frames import Frames
from tools.vm.hardware import UPLINK_MAC
from tools.vm.hub import BenchHub
from tools.vm.journey import Journey, beside, quarantined, speaking

DARK_S: Final = 30.0
"""How long the dark is watched; a healthy box renews its address and asks for neighbours meanwhile."""
FIRST: Final = "mount_over_system"
_LIBC: Final = "import ctypes, os, time; libc = ctypes.CDLL(None, use_errno=True)\n"
_MOUNT: Final = _LIBC + (
    "def mount(source, target, kind, flags):\n"
    "    if libc.mount(source, target, kind, flags, None):\n"
    "        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))\n"
)
TAMPER: Final = _MOUNT + (
    "folder = next(e.path for e in sorted(os.scandir('/usr/share'), key=lambda e: e.name) if e.is_dir())\n"
    "at = time.time()\n"
    "mount(b'x', folder.encode(), b'tmpfs', 0)\n"
    "print(at)\n"
)
BESIDES: Final = {
    "mount_loosened": _MOUNT + "mount(None, b'/var', None, 0x1000 | 0x20 | 2 | 4)\n",  # bind, remount, nosuid, nodev
    "unit_foreign": "import os; os.makedirs('/run/systemd/system', exist_ok=True)\n"
    "open('/run/systemd/system/mine.service', 'w').write('[Service]')\n",
    "configuration_changed": "open('/run/bsfg/config/node.toml', 'a').write('# mine\\n')\n",
    "sysctl_changed": "open('/proc/sys/kernel/dmesg_restrict', 'w').write('0')\n",
    "firewall_changed": "import subprocess\n"
    "subprocess.run(['/usr/sbin/nft', 'insert', 'rule', 'inet', 'bsfg', 'output', 'accept'], check=True)\n",
    "ipe_off": "open('/sys/kernel/security/ipe/enforce', 'w').write('0')\n",
}
"""What else is done, and the code it must be found by."""
STAYS: Final = {
    "listener_foreign": "import socket, time; s = socket.create_server(('127.0.0.1', 4444)); time.sleep(900)",
    "raw_socket_foreign": "import socket, time; s = socket.socket(17, 3, 0x0300); time.sleep(900)",
}
"""Programs that go on."""


def test_a_tampered_box_is_dark_until_two_operators_release_it(bench: Bench, control: Callable[[], None]) -> None:
    """Every kind by its code; not one frame after the cut; local work goes on; a power cut changes nothing."""
    control()
    hub, box = bench.hub(), bench.box()
    with hub.running():
        capture = bench.folder / "tampered.pcap"
        with beside(box, hub, "tampered", capture=capture) as journey, Frames(capture, UPLINK_MAC) as frames:
            journey.to_ready()
            before, _ = journey.cross("before")
            dark_at = go_dark(journey, frames, bench.folder)
            kept = journey.application.stored("dark", 30)
            codes_found(journey)
            time.sleep(max(0.0, dark_at + pace.limit(DARK_S) - time.time()))
            assert frames.since(dark_at) == [], "frames left the box after the cut"
            evidence = evidence_of(journey, bench.folder / "evidence")
            journey.machine.kill()
        capture = bench.folder / "again.pcap"
        with beside(box, hub, "again", capture=capture) as journey, Frames(capture, UPLINK_MAC) as frames:
            agent = journey.machine.wait_agent()
            guest.wait_documents(agent, quarantined, "it is in quarantine after the power cut", 240)
            kept |= journey.application.stored("still-dark", 30)
            assert frames.since(0) == [], "frames left a box that was in quarantine when it was switched on"
            release(journey, hub, evidence, bench.folder)
            journey.machine.power_off()
        with beside(box, hub, "released") as journey:
            journey.to_ready()
            received = hub.wait_received(before | kept, "what was stored meanwhile crosses after the release", 180)
            ids = [fact["envelope"]["message_id"] for fact in received]
            assert len(ids) == len(set(ids)), "facts are doubled"
            assert speaking(guest.documents(journey.machine.agent))
            journey.machine.power_off()


def go_dark(journey: Journey, frames: Frames, folder: Path) -> float:
    """Tamper, and wait until it is dark; from when on no frame may come, by this host's clock (Unix seconds)."""
    agent = journey.machine.agent
    ahead_s = min((_clock(agent) for _ in range(5)), key=lambda pair: pair[1])[0]
    tampered_at = float(agent.python(TAMPER)) - ahead_s
    found = guest.wait_documents(agent, quarantined, "the box is in quarantine", 120)["watchdog"]
    assert found["quarantine"]["code"] == FIRST
    cut = next(step for step in found["quarantine"]["steps"] if step["step"] == "cut")
    last = max((at for at in frames.frames if at > tampered_at), default=tampered_at)
    took = {"last_frame_ms": round(1000 * (last - tampered_at)), "cut_ms": cut["took_us"] / 1000}
    (folder / "figures.json").write_text(json.dumps(took) + "\n", "utf-8")
    assert last - tampered_at < pace.limit(30)
    return float(cut["unix_ms"]) / 1000 - ahead_s + 1.0


def _clock(agent: Agent) -> tuple[float, float]:
    """How far the guest's clock is ahead of this host's, in seconds, and how exactly that is known."""
    began = time.time()
    there = agent.command("guest-get-time") / 1e9
    ended = time.time()
    return there - (began + ended) / 2, ended - began


def codes_found(journey: Journey) -> None:
    """Tamper in every other way; each is noted by its own code."""
    agent = journey.machine.agent
    for text in STAYS.values():
        agent.start(*PYTHON, text)
    for text in BESIDES.values():
        agent.python(text)
    wanted = {*BESIDES, *STAYS, FIRST}

    def noted(found: guest.Documents) -> bool:
        return wanted <= {note["code"] for note in found.get("watchdog", {}).get("notes", [])}

    guest.wait_documents(agent, noted, f"each of {sorted(wanted)} is found", 120)


def evidence_of(journey: Journey, folder: Path) -> Path:
    """Fetch bundle and seal, as a technician does with a stick. The agent stands in for the stick."""
    agent = journey.machine.agent
    folder.mkdir()
    names = agent.python(
        "import os, subprocess, sys\n"
        "os.makedirs('/run/evidence', exist_ok=True)\n"
        "subprocess.run(['/usr/bin/bsfg', 'evidence', 'export', '/run/evidence'], check=True, stdout=sys.stderr)\n"
        "print('\\n'.join(sorted(os.listdir('/run/evidence'))))",
        seconds=pace.limit(120),
    ).split()
    for name in names:
        (folder / name).write_bytes(agent.read(f"/run/evidence/{name}"))
    (bundle,) = [folder / name for name in names if not name.endswith(".seal.json")]
    return bundle


def release(journey: Journey, hub: BenchHub, evidence: Path, folder: Path) -> None:
    """Request, both operators' signatures, and in; everything by the product's own commands."""
    agent = journey.machine.agent
    agent.write("/run/bundle", evidence.read_bytes())
    agent.check(
        *("/usr/bin/bsfg", "release", "request", "/run/request.json", "--evidence", "/run/bundle"),
        *("--keeper", "/run/bsfg/keeper/keeper.sock"),
        seconds=pace.limit(120),
    )
    request = folder / "request.json"
    request.write_bytes(agent.read("/run/request.json"))
    signed = signed_by_both(hub, request, evidence, folder)
    agent.write("/run/release.json", signed.read_bytes())
    done = agent.run("/usr/bin/bsfg", "quarantine", "release", "/run/release.json", seconds=pace.limit(120))
    assert done.text.startswith("RELEASED"), done.text + done.err.decode("utf-8", "replace")
