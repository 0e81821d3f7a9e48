# SPDX-License-Identifier: Apache-2.0
"""What is rendered, given to the programs it is for: systemd-networkd, udev, nft and chronyd, in a network of its own.

These need root and the programs; without them they are skipped, and the unit tests of the texts remain.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.site.config import SiteConfig
from appliance.site.egress import SETS, nft_script, nft_sets
from appliance.site.network import all_ports, network_files, port_device
from appliance.site.services import chrony_conf
from tests import sites
from tests.network_cell import NETWORKD

CELL = ["unshare", "--net", "--mount", sys.executable, "-m", "tests.network_cell"]
NO_KERNEL = re.compile(r"netdev could not be created: Operation not supported|Failed to create netdev: Operation not")

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network of its own")
with_networkd = pytest.mark.skipif(not NETWORKD.exists() or not shutil.which("ss"), reason="needs systemd-networkd, ss")


def cell(root: Path, folder: Path, *arguments: str) -> Any:
    """Run the cell. :returns: what it printed."""
    command = [*CELL, str(folder), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=root, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def written(config: SiteConfig, folder: Path) -> Path:
    """The rendered files, in a folder."""
    folder.mkdir()
    for name, text in network_files(config).items():
        (folder / name).write_text(text)
    return folder


def wanted(config: SiteConfig) -> list[str]:
    """The addresses that the configuration says, lo included."""
    found = ["lo 127.0.0.1/8", "lo ::1/128"]
    if config.listener is not None:
        found.append(f"lo {config.listener.address}/{config.listener.address.max_prefixlen}")
    return sorted([*found, *(f"{each.device} {one}" for each in config.interfaces for one in each.addresses)])


@as_root
@with_networkd
@pytest.mark.parametrize("name", sites.NAMES)
def test_networkd_does_what_the_document_says(root: Path, tmp_path: Path, name: str) -> None:
    """Every address and route, nothing else, no complaint, nothing that listens, and unused ports down."""
    config = sites.config(name)
    ports = [port_device(config, port) for port in all_ports(config)]
    found = cell(root, written(config, tmp_path / "files"), str(len(wanted(config))), *ports)
    without = [line for line in found["complaints"] if NO_KERNEL.search(line)]
    assert [line for line in found["complaints"] if line not in without] == []
    assert found["listening"] == ""
    assert "UP" not in found["links"]["spare"]["flags"]
    if without:
        pytest.skip(f"this kernel has no such devices; the files were read without complaint: {without[0]}")
    assert found["addresses"] == wanted(config)
    routes = {(route["dst"], route.get("gateway")) for route in found["routes"] if route.get("gateway")}
    stated = {(str(route.to), str(route.via)) for each in config.interfaces for route in each.routes}
    gateways = {each.gateway(version) for each in config.interfaces for version in (4, 6)} - {None}
    assert routes == stated | {("default", str(gateway)) for gateway in gateways}


@as_root
@with_networkd
def test_a_complaint_is_seen(root: Path, tmp_path: Path) -> None:
    """Of a field that networkd does not know; so the test above can fail."""
    folder = written(sites.config("single-site"), tmp_path / "files")
    file = folder / "30-bsfg-uplink0.network"
    file.write_text(file.read_text().replace("LLMNR=no", "LLMMR=no"))
    assert "LLMMR" in " ".join(cell(root, folder, "2", "uplink0")["complaints"])


@as_root
@pytest.mark.skipif(not shutil.which("udevadm"), reason="needs udevadm")
def test_udev_names_ports_by_role(root: Path, tmp_path: Path) -> None:
    """By MAC and by name. The ports of the test have no permanent address, so it is the present one that is matched."""
    folder = written(sites.config("two-nics"), tmp_path / "two")
    for file in folder.glob("*.link"):
        assert "PermanentMACAddress=" in file.read_text()
        file.write_text(file.read_text().replace("PermanentMACAddress=", "MACAddress="))
    ports = ("one=00:00:5e:00:53:02", "two=00:00:5e:00:53:01", "three=00:00:5e:00:53:03")
    said = cell(root, folder, "udev", *ports)
    assert "ID_NET_NAME=plant0" in said["one"]
    assert "ID_NET_NAME=uplink0" in said["two"]
    assert "bsfg" not in said["three"]
    said = cell(root, written(sites.config("proxy"), tmp_path / "proxy"), "udev", "enp1s0=00:00:5e:00:53:07")
    assert "ID_NET_NAME=uplink0" in said["enp1s0"]
    assert not re.search("unknown|failed to parse", " ".join(said.values()), re.IGNORECASE)


@as_root
@pytest.mark.skipif(not shutil.which("nft"), reason="needs nft")
@pytest.mark.parametrize("name", sites.NAMES)
def test_nft_takes_the_elements(tmp_path: Path, name: str) -> None:
    """Into sets of the agreed types, twice over, so that nothing of before is left."""
    types = {
        each: "ifname . inet_service" if each == "plant_ingress" else f"ipv{each[-1]}_addr . inet_service"
        for each in SETS
    }
    table = "".join(f"  set {each} {{ type {kind}; }}\n" for each, kind in types.items())
    stale = "add element inet bsfg hub4 { 198.51.100.1 . 1 }\n"
    names = {"hub.example.com": (), "nts.example.com": ()}
    script = nft_script(nft_sets(sites.config(name), names))
    rules = tmp_path / "rules.nft"
    rules.write_text(f"table inet bsfg {{\n{table}}}\n{stale}{script}{script}")
    listed = subprocess.run(
        ["unshare", "--net", "sh", "-c", 'nft -f "$0" && nft -j list table inet bsfg', str(rules)],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if "Operation not supported" in listed.stderr or "Protocol not supported" in listed.stderr:
        pytest.skip("this kernel has no nftables")
    assert listed.returncode == 0, listed.stderr
    sets = {each["set"]["name"]: each["set"] for each in json.loads(listed.stdout)["nftables"] if "set" in each}
    sizes = {each: len(elements) for each, elements in nft_sets(sites.config(name)).items()}
    assert {each: len(sets[each].get("elem", [])) for each in SETS} == sizes


@pytest.mark.skipif(not shutil.which("chronyd"), reason="needs chronyd")
@pytest.mark.parametrize("name", sites.NAMES)
def test_chronyd_reads_its_configuration(tmp_path: Path, name: str) -> None:
    """It prints what it has read, and complains of nothing."""
    text = chrony_conf(sites.config(name), tmp_path / "ca.pem", tmp_path)
    if text is None:
        assert name == "vlan-one-nic"  # the one without a time server
        return
    (tmp_path / "chrony.conf").write_text(text)
    chronyd = shutil.which("chronyd") or ""
    done = subprocess.run([chronyd, "-p", "-f", tmp_path / "chrony.conf"], check=True, capture_output=True, text=True)
    assert [line for line in text.splitlines() if not line.startswith("#")] == done.stdout.splitlines()
