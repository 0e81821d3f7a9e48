# SPDX-License-Identifier: Apache-2.0
"""A network of its own for systemd-networkd, udev and nft: run as root by tests, never by hand.

``unshare --net --mount python -m tests.network_cell FOLDER PORT...`` starts the real systemd-networkd on the files of
FOLDER, with PORTs whose other ends are in a further network, and prints what became of it as one JSON object.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

NETWORKD = Path("/usr/lib/systemd/systemd-networkd")
RUN = Path("/run")
NETIF = ("systemd/netif", "systemd/netif/links", "systemd/netif/leases", "systemd/netif/lldp")
USER = "systemd-network"
"""Which networkd becomes; its package makes it."""
SETTLE_S = 10.0
WARNINGS = {"SYSTEMD_LOG_LEVEL": "warning"}


def ask(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def make_run(files: Path) -> None:
    """A ``/run`` of our own, with the files where networkd and udev look for them."""
    ask("mount", "--make-rprivate", "/")
    ask("mount", "-t", "tmpfs", "tmpfs", str(RUN))
    (RUN / "systemd/network").mkdir(parents=True)
    for file in files.iterdir():
        shutil.copy(file, RUN / "systemd/network")


def link_names(ports: list[str]) -> dict[str, str]:
    """What udev makes of each port by the ``.link`` files: the name that it gets."""
    ask("mount", "-t", "sysfs", "sysfs", "/sys")
    names = {}
    for port in ports:
        done = subprocess.run(
            ["udevadm", "test-builtin", "net_setup_link", f"/sys/class/net/{port}"],
            check=False, capture_output=True, text=True, env=os.environ | WARNINGS,
        )  # fmt: skip
        names[port] = done.stdout + done.stderr
    return names


def networkd(ports: list[str], wanted: int) -> dict[str, Any]:
    """Run it until as many addresses are there as are wanted, or for a while."""
    for folder in NETIF:
        (RUN / folder).mkdir()
        shutil.chown(RUN / folder, USER, USER)
    ask("ip", "link", "set", "lo", "up")  # as PID 1 does
    ask("mount", "-o", "remount,ro,bind", "/sys")  # so networkd waits for no udev
    far = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    time.sleep(0.3)
    for number, port in enumerate(ports):
        ask("ip", "link", "add", port, "type", "veth", "peer", "name", f"far{number}", "netns", str(far.pid))
        ask("nsenter", "-t", str(far.pid), "-n", "ip", "link", "set", f"far{number}", "up")
    ask("ip", "link", "add", "spare", "type", "veth", "peer", "name", "spare1", "netns", str(far.pid))
    ask("ip", "link", "set", "spare", "up")
    log = RUN / "log"
    with log.open("w") as file:
        daemon = subprocess.Popen([NETWORKD], stdout=file, stderr=file, env=os.environ | WARNINGS)
        end = time.monotonic() + SETTLE_S
        while time.monotonic() < end and len(_addresses()) < wanted:
            time.sleep(0.2)
        time.sleep(0.5)
        found: dict[str, Any] = {
            "addresses": _addresses(),
            "routes": [*json.loads(ask("ip", "-j", "route")), *json.loads(ask("ip", "-j", "-6", "route"))],
            "links": {each["ifname"]: each for each in json.loads(ask("ip", "-j", "-d", "link"))},
            "listening": ask("ss", "-Htuln"),
        }
        for process in (daemon, far):
            process.terminate()
            process.wait()
    return found | {"complaints": log.read_text().splitlines()}


def _addresses() -> list[str]:
    """``device address/prefix`` of all that are there, link-local ones left out."""
    return sorted(
        f"{link['ifname']} {each['local']}/{each['prefixlen']}"
        for link in json.loads(ask("ip", "-j", "addr"))
        for each in link["addr_info"]
        if each["scope"] != "link"
    )


def main(folder: str, what: str, *ports: str) -> dict[str, Any]:
    """``udev``, and ports as ``name=mac``; or how many addresses to wait for, and names of ports."""
    make_run(Path(folder))
    if what != "udev":
        return networkd(list(ports), int(what))
    names = []
    for pair in ports:
        name, mac = pair.split("=")
        ask("ip", "link", "add", name, "address", mac, "type", "veth", "peer", "name", f"far-{name}")
        names.append(name)
    return link_names(names)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
