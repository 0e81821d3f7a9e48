# SPDX-License-Identifier: Apache-2.0
"""A box that was just flashed: it makes its disk, is let in by the hub, and facts cross both ways.

What is looked at here was observed while the golden state was made, which is the first boot of this image.
"""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from typing import Any

import pytest

from appliance.watchdog.probes.mount_table import BOX
from tests.vm.conftest import Bench
from tests.vm.golden import Golden
from tests.vm.refusing import PROMPT
from tools.vm import capture
from tools.vm.application import ADDRESS, PORTS
from tools.vm.images import Image
from tools.vm.journey import FACTS, ORDERS, SECURE_BOOT, WORKING


@pytest.fixture(scope="session")
def seen(golden: Golden) -> dict[str, Any]:
    """What the box was like from inside."""
    found: dict[str, Any] = golden.report["seen"]
    return found


def test_facts_cross_both_ways(golden: Golden) -> None:
    """After configuration, enrolment and the watchdog's proof, in this order."""
    report = golden.report
    assert len(report["sent"]) == FACTS
    assert len(report["came"]) == ORDERS
    times = report["times"]
    assert sorted(times, key=lambda step: times[step]) == [
        "booted",
        "configured",
        "enrolled",
        "speaking",
        "out",
        "in",
    ]


def test_the_image_is_the_one_that_was_built(seen: dict[str, Any], image: Image) -> None:
    """Nothing of it was exchanged on the way."""
    running, built = json.loads(seen["image"]), json.loads((image.folder / "image.json").read_text("utf-8"))
    assert running["version"] == built["version"]
    assert running["profile"] == "test"
    assert f"roothash={built['roothash']}" in seen["cmdline"]


def test_secure_boot_is_on_and_the_kernel_is_locked_down(seen: dict[str, Any]) -> None:
    """User mode, enforced; lockdown; the kernel demands the root hash's signature; IPE enforces our policy."""
    assert (seen["secure_boot"], seen["setup_mode"]) == ("01", "00")
    assert "[integrity]" in seen["lockdown"] or "[confidentiality]" in seen["lockdown"]
    assert seen["require_signatures"] == "Y"
    assert seen["ipe_enforce"] == "1"
    assert seen["ipe_policies"] != []
    assert "ipe" in seen["lsm"].split(",")
    assert seen["tainted"] == "0"


def test_root_is_verity_and_var_is_encrypted(seen: dict[str, Any]) -> None:
    """Root is read-only and verified; nothing can be executed where something can be written."""
    device, kind, options = seen["mounts"]["/"]
    assert (device, kind) == ("/dev/mapper/root", "erofs")
    assert "ro" in options
    assert re.search(r"status:\s+verified", seen["verity"])
    for place in ("/var", "/tmp", "/run"):  # noqa: S108 - of the guest
        assert {"nosuid", "nodev"} <= set(seen["mounts"][place][2])
    assert seen["mounts"]["/var"][0] == "/dev/mapper/var"
    assert set(seen["pcrs"]["15"]) != {"0"}, "the volume key was measured"
    assert set(seen["pcrs"]["12"]) == set(seen["pcrs"]["13"]) == {"0"}, "nothing was added from outside"


def test_the_status_page_tells_what_is_so(golden: Golden) -> None:
    """On the serial line of a box that works: what the kernel and the firmware say, and nothing that is wrong."""
    page = golden.report["page"]
    assert re.search(WORKING, page)
    assert re.search(SECURE_BOOT, page)
    assert re.search(r"^ Uplink +link up, 10\.0\.2\.15/24 via 10\.0\.2\.2", page, re.MULTILINE)
    assert re.search(rf"^ Plant +link up, {re.escape(ADDRESS)}/24", page, re.MULTILINE)
    assert re.search(r"^ Works +local producers, local consumers, facts to hub, facts from hub$", page, re.MULTILINE)
    assert not re.search(r"^ (Wrong|Note|Stopped|Unknown) ", page, re.MULTILINE), page
    assert "boot entry app" in page  # the rest has no room while the image is on trial
    assert "stale" not in page


def test_only_what_a_box_mounts_is_mounted(seen: dict[str, Any]) -> None:
    """What the initrd left included: the table by which the watchdog judges holds all of it."""
    known = {(each.kind, each.point) for each in BOX}
    strange = {
        point: kind
        for point, (_, kind, _) in seen["mounts"].items()
        if not any(kind == k and fnmatchcase(point, p) for k, p in known)
    }
    assert strange == {}


def test_the_watchdog_finds_nothing_and_sees_everything(golden: Golden) -> None:
    """No probe of a box that works is blind, and none has a suspicion."""
    watchdog = golden.report["documents"]["watchdog"]
    assert watchdog["state"] == "open"
    assert watchdog["problems"] == []
    assert watchdog.get("notes", []) == []


def test_nothing_failed_and_nobody_is_asked(seen: dict[str, Any], golden: Golden) -> None:
    """No failed unit, no prompt, no credentials from outside."""
    assert seen["failed_units"] == ""
    assert "@system" not in seen["credentials"]
    assert not re.search(PROMPT, golden.report["serial"], re.MULTILINE)


def test_only_the_plants_ports_listen(seen: dict[str, Any]) -> None:
    """Loopback, and the documented ports on the plant's address; nothing on the uplink, nothing everywhere."""
    plant = ADDRESS.split(".")
    little_endian = "".join(f"{int(part):02X}" for part in reversed(plant))
    allowed = (f"{little_endian}:", "0100007F:")
    assert [where for where in seen["listeners"]["tcp"] if not where.startswith(allowed)] == []
    loopback6 = "00000000000000000000000001000000:"
    assert [where for where in seen["listeners"]["tcp6"] if not where.startswith(loopback6)] == []
    dhcp = ":0044"
    assert [
        where for where in seen["listeners"]["udp"] if not where.startswith("0100007F:") and dhcp not in where
    ] == []


def test_a_scanner_in_the_plant_finds_the_two_ports(golden: Golden) -> None:
    """All others are silent: no refusal tells that there is somebody."""
    assert golden.report["open"] == sorted(PORTS)
    assert golden.report["refused"] == []


def test_the_wire_carries_what_was_allowed_and_no_more(golden: Golden) -> None:
    """Every frame of the uplink was captured: DHCP, ARP and the hub's three ports."""
    packets = capture.read(golden.folder / "first.pcap")
    assert packets, "the capture is empty"
    hub = capture.hub_ports(golden.folder / "hub")
    strange = {packet for packet in packets if packet.from_guest and not capture.allowed(packet, hub)}
    assert strange == set()
    assert {packet.port for packet in packets if packet.from_guest and packet.protocol == "tcp"} >= {hub.rpc, hub.trust}
    assert not [packet for packet in packets if not packet.from_guest and packet.opens], "somebody dialled the box"


def test_boot_counting_has_blessed_the_system(golden: Golden, bench: Bench) -> None:
    """A good system has no counter any more."""
    entries = bench.box().disk.esp.ukis()
    assert [name for name in entries if "+" in name] == []
    assert len(entries) == 1
