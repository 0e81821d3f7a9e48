# SPDX-License-Identifier: Apache-2.0
"""What the kernel and the firmware say: network, image, Secure Boot, names, disk."""

from __future__ import annotations

import ipaddress
import json
import os
from pathlib import Path

import pytest
from pyroute2 import IPRoute  # type: ignore[import-untyped]

from appliance.console.model import Looker
from appliance.console.network import ROLES, Interface, interfaces
from appliance.console.system import BLESSED, Disk, disk, image, machine
from appliance.site.config import Role
from tests import consoles
from tests.consoles import FixedClock, network, port, put, tell, variable
from tests.side_by_side import first_network


def test_a_version_is_on_trial_until_it_is_taken_for_good(tmp_path: Path, root: Path) -> None:
    """Seen at the next look, and not at the next boot; what the boot loader said stays as it was."""
    consoles.CASES["working_software_tpm"][1](tmp_path)
    looker = Looker(tmp_path, clock=FixedClock())
    assert (looker.look().image.tries, looker.look().image.tries) == (2, 2)
    (tmp_path / BLESSED).mkdir()
    assert (looker.look().image.tries, image(tmp_path).tries) == (None, 2)
    unit = root / "image/mkosi.extra/usr/lib/systemd/system/systemd-bless-boot.service.d/50-bsfg.conf"
    assert f"\nRuntimeDirectory={BLESSED.removeprefix('run/')}\n" in unit.read_text()


def test_roles_are_those_of_the_site_configuration() -> None:
    """The names stand twice, because the page must start without the site's modules."""
    assert {role.device: str(role) for role in Role} == ROLES


def test_interfaces(tmp_path: Path) -> None:
    """Those with a role first; addresses at their device, IPv4 first, link-local ones not; gateways."""
    network(tmp_path)
    port(tmp_path, "enp9s0", carrier=False)
    put(tmp_path, "sys/class/net/lo/address", "00:00:00:00:00:00\n")
    assert interfaces(tmp_path) == (
        Interface(
            "uplink0", "uplink", True, "02:00:5e:10:00:01", None, ("192.0.2.20/24", "2001:db8::20/64"), ("192.0.2.1",)
        ),
        Interface("plant0", "plant", True, "02:00:5e:10:00:02", None, ("10.10.20.1/24",)),
        Interface("enp9s0", "", False, "02:00:5e:10:00:01"),
    )


def test_the_narrowest_network_has_the_address(tmp_path: Path) -> None:
    """Where networks lie within one another; an address of no network is told without a device."""
    port(tmp_path, "a0")
    port(tmp_path, "b0")
    rows = ("a0\t0000000A\t00000000\t0001\t0\t0\t0\t000000FF", "b0\t0000010A\t00000000\t0001\t0\t0\t0\t0000FFFF")
    put(tmp_path, "proc/self/net/route", "Iface\theading\n" + "\n".join(rows) + "\n")
    hosts = ("10.1.2.3", "10.2.2.3", "172.16.0.9")
    put(tmp_path, "proc/self/net/fib_trie", "".join(f"  |-- {each}\n     /32 host LOCAL\n" for each in hosts))
    found = {each.name: each.addresses for each in interfaces(tmp_path)}
    assert found == {"a0": ("10.2.2.3/8",), "b0": ("10.1.2.3/16",)}


def test_ipv6_gateway_and_unusable_addresses(tmp_path: Path) -> None:
    """A default route by a router; an address that is a duplicate, or still being tried, is none."""
    port(tmp_path, "uplink0")
    lines = [
        "20010db8000000000000000000000001 02 40 00 08  uplink0",
        "20010db8000000000000000000000002 02 40 00 40  uplink0",
        "20010db8000000000000000000000003 02 38 00 80  uplink0",
    ]
    put(tmp_path, "proc/self/net/if_inet6", "\n".join(lines))
    none = "0" * 32
    route = f"{none} 00 {none} 00 20010db80000000000000000000000ff 00000400 00000002 00000000 00000003 uplink0\n"
    put(tmp_path, "proc/self/net/ipv6_route", route)
    (uplink,) = interfaces(tmp_path)
    assert (uplink.addresses, uplink.gateways) == (("2001:db8::3/56",), ("2001:db8::ff",))


@pytest.mark.parametrize("name", ["route", "fib_trie", "if_inet6", "ipv6_route"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"a b c\n" * 50,
        b"uplink0\tx\ty\tz\n",
        b"0 0 0 0 0 0 0 0 0 0\n",
        b"  |-- 999.1.1.1\n     /32 host LOCAL\n",
    ],
)
def test_nonsense_of_a_kernel_is_left_out(tmp_path: Path, name: str, content: bytes) -> None:
    """A newer kernel may write what this one does not."""
    network(tmp_path)
    put(tmp_path, f"proc/self/net/{name}", content)
    assert {each.name for each in interfaces(tmp_path)} == {"uplink0", "plant0"}


def test_hostile_names_of_devices(tmp_path: Path) -> None:
    """A name may hold anything but a blank and a slash; only plain ones are shown."""
    port(tmp_path, "evil\x1b[2J")
    port(tmp_path, "eth0")
    assert [each.name for each in interfaces(tmp_path)] == ["eth0"]


def test_this_machine_as_netlink_tells() -> None:
    """The same devices, addresses and gateways that the kernel tells by netlink, in the network that ``/sys`` shows."""
    with first_network(), IPRoute() as netlink:
        names = {link["index"]: link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}
        told: dict[str, set[str]] = {name: set() for name in names.values() if name != "lo"}
        for each in netlink.get_addr():
            address = ipaddress.ip_address(each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS"))
            if not address.is_loopback and not address.is_link_local:
                told[names[each["index"]]].add(f"{address}/{each['prefixlen']}")
        gateways = {each.get_attr("RTA_GATEWAY") for each in netlink.get_routes(table=254) if not each["dst_len"]} - {
            None
        }
        found = interfaces(Path("/"))
    assert {each.name: set(each.addresses) for each in found} == told
    assert {gateway for each in found for gateway in each.gateways} == gateways


def test_image_and_machine(tmp_path: Path) -> None:
    """All of it, and none of it."""
    assert (image(tmp_path).version, image(tmp_path).tries, machine(tmp_path, None).secure_boot) == ("", None, "")
    consoles.machine(tmp_path)
    found = image(tmp_path)
    assert (found.version, found.profile, found.entry, found.tries) == ("0.1.0", "metal", "bsfg_0.1.0.efi", None)
    told = machine(tmp_path, None)
    assert (told.serial, told.machine_id, told.secure_boot) == (
        "XK-2040-0017",
        "3d1219c7c4c5404aaa1f6d2a48adfda4",
        "on",
    )
    put(tmp_path, "credentials/serial", "from the unit\n")
    assert machine(tmp_path, tmp_path / "credentials").serial == "from the unit"
    put(tmp_path, "credentials/serial", "-")
    assert machine(tmp_path, tmp_path / "credentials").serial == "XK-2040-0017"


@pytest.mark.parametrize(
    ("secure_boot", "setup", "told"),
    [(b"\1", b"\0", "on"), (b"\0", b"\0", "off"), (b"\0", b"\1", "setup"), (b"\1", b"\1", "setup"), (b"", b"", "")],
)
def test_secure_boot(tmp_path: Path, secure_boot: bytes, setup: bytes, told: str) -> None:
    """On only when it is on, and the keys are not open to be replaced."""
    variable(tmp_path, "SecureBoot", secure_boot)
    variable(tmp_path, "SetupMode", setup)
    assert machine(tmp_path, None).secure_boot == told


@pytest.mark.parametrize("content", ["", "[]", "no JSON", '{"version": 7}', '{"version": "' + "x" * 9000 + '"}'])
def test_a_damaged_image_document(tmp_path: Path, content: str) -> None:
    """Nothing of it is shown."""
    put(tmp_path, "usr/lib/bsfg/image.json", content)
    assert image(tmp_path).version == ""


def test_disk(tmp_path: Path) -> None:
    """By bytes or by files, whichever is scarcer, for those who are not root."""
    assert disk(tmp_path) is None
    (tmp_path / "var").mkdir()
    found = os.statvfs(tmp_path / "var")
    told = disk(tmp_path)
    assert told is not None
    assert told.size == found.f_blocks * found.f_frsize
    assert abs(told.used - (100 - found.f_bavail * 100 // found.f_blocks)) <= 1 or told.used >= 50


@pytest.mark.parametrize(
    ("blocks", "available", "files", "files_available", "used"),
    [(1000, 1000, 0, 0, 0), (1000, 0, 100, 100, 100), (1000, 700, 100, 3, 97), (0, 0, 0, 0, 0), (10, 20, 0, 0, 0)],
)
def test_disk_by_figures(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    blocks: int,
    available: int,
    files: int,
    files_available: int,
    used: int,
) -> None:
    """File systems without files to count, and figures that cannot be."""
    figures = (4096, 4096, blocks, blocks, available, files, files, files_available, 0, 255)
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(figures))
    assert disk(tmp_path) == Disk(used, blocks * 4096)


def test_what_hardly_changes_is_not_looked_up_each_time(tmp_path: Path) -> None:
    """Firmware variables are slow to read; a changed one is seen within a minute."""
    consoles.machine(tmp_path)
    clock = FixedClock()
    looker = Looker(tmp_path, clock=clock)
    assert looker.look().machine.secure_boot == "on"
    variable(tmp_path, "SecureBoot", b"\0")
    tell(tmp_path, "site", zone="plant-b")
    clock.pass_s(30)
    assert (looker.look().machine.secure_boot, looker.look().zone) == ("on", "plant-b")
    clock.pass_s(31)
    assert looker.look().machine.secure_boot == "off"
    put(tmp_path, "usr/lib/bsfg/image.json", json.dumps({"version": "2"}))
    assert looker.look().image.version == "0.1.0"
