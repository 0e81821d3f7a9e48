# SPDX-License-Identifier: Apache-2.0
"""The sandboxes of the units: all of ours have one, and ``systemd-analyze security`` finds little to say about them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.image import hardening
from tools.image.hardening.data import Area, controls
from tools.image.hardening.sandbox import OURS, drop_ins, units_of

FindTool = Callable[[str], str]
UNITS = Path("usr/lib/systemd/system")
BOUND = 12
"""Tenths, as systemd-analyze takes them."""

# Directives of units that systemd 252 (Debian 12, where tests may run) does not know yet; a box has 257.
NEWER = {"RestartSteps", "RestartMaxDelaySec"}


@pytest.fixture(scope="module")
def tree(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units as they stand in the image, with their drop-ins."""
    made = tmp_path_factory.mktemp("root")
    shutil.copytree(root / "image/mkosi.extra/usr", made / "usr")
    hardening.render(made)
    return made


def exposure(find_tool: FindTool, tree: Path, unit: str) -> tuple[int, str]:
    """Tenths, and what is said against it."""
    name = unit.replace("@.", "@x.")
    command = [find_tool("systemd-analyze"), "security", "--offline=true", f"--root={tree}", "--no-pager"]
    outcome = subprocess.run([*command, name], capture_output=True, text=True, check=False)
    found = re.search(r"Overall exposure level for \S+: (\d+)\.(\d)", outcome.stdout)
    assert found, outcome.stderr
    return int(found[1]) * 10 + int(found[2]), outcome.stdout


def test_every_unit_of_ours_is_known(tree: Path) -> None:
    """A new service needs its line in OURS, and so gets a sandbox."""
    services = {path.name for path in (tree / UNITS).glob("*.service") if path.name.startswith(("bsfg-", "nats-"))}
    assert services == set(OURS)
    for unit in OURS:
        assert (tree / UNITS / f"{unit}.d/50-sandbox.conf").is_file()


@pytest.mark.parametrize("unit", OURS)
def test_exposure(unit: str, tree: Path, find_tool: FindTool) -> None:
    """At most 1.2; without its drop-in the same unit is far above."""
    found, listing = exposure(find_tool, tree, unit)
    assert found <= BOUND, listing
    bare = tree / "bare"
    (bare / UNITS).mkdir(parents=True, exist_ok=True)
    shutil.copy(tree / UNITS / unit, bare / UNITS / unit)
    assert exposure(find_tool, bare, unit)[0] > 70


def test_units_are_understood(tree: Path, find_tool: FindTool) -> None:
    """Every line of units and drop-ins is read; a wrong name or value would be skipped with a word in a log."""
    for unit in (*OURS, "bsfg.target"):
        name = unit.replace("@.", "@x.")
        command = [find_tool("systemd-analyze"), "verify", f"--root={tree}", "--man=no", "--generators=no", name]
        outcome = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [
            line
            for line in outcome.stderr.splitlines()
            if re.search(r"Unknown|Failed to parse|Invalid|ignoring", line) and not any(word in line for word in NEWER)
        ]
        assert said == [], unit


def test_units_start_in_an_order(tree: Path, tmp_path: Path, find_tool: FindTool) -> None:
    """No circle, with systemd's own units around them: systemd would break one by not starting something."""
    stock = Path("/") / UNITS
    if not (stock / "multi-user.target").exists():
        pytest.skip("systemd's own units are not here")
    shutil.copytree(stock, tmp_path / UNITS, symlinks=True, ignore_dangling_symlinks=True)
    shutil.copytree(tree / "usr", tmp_path / "usr", symlinks=True, dirs_exist_ok=True)
    wants = tmp_path / "etc/systemd/system"
    preset = (tree / "usr/lib/systemd/system-preset/00-bsfg.preset").read_text("utf-8")
    for unit in re.findall(r"^enable (bsfg\S+)$", preset, re.MULTILINE):
        target = re.findall(r"^WantedBy=(\S+)$", (tmp_path / UNITS / unit).read_text("utf-8"), re.MULTILINE)[0]
        (wants / f"{target}.wants").mkdir(parents=True, exist_ok=True)
        (wants / f"{target}.wants" / unit).symlink_to(f"/{UNITS}/{unit}")
    command = [find_tool("systemd-analyze"), "verify", f"--root={tmp_path}", "--man=no", "--generators=no"]

    def circles() -> list[str]:
        outcome = subprocess.run([*command, "multi-user.target"], capture_output=True, text=True, check=False)
        return [line for line in outcome.stderr.splitlines() if "cycle" in line]

    assert circles() == []
    (tmp_path / UNITS / "bsfg-keeper.service.d/60-circle.conf").write_text("[Unit]\nBefore=basic.target\n", "utf-8")
    assert circles() != []


def test_what_each_unit_may(tree: Path) -> None:
    """In one table: privileges, devices, families of sockets, and where it writes. It changes on purpose only."""
    texts = dict(drop_ins(controls(Area.SANDBOX)))
    found = {unit: _rights(texts[unit]) for unit in OURS}
    assert {unit for unit, (privileges, *_) in found.items() if privileges} == {
        "bsfg-audit.service",
        "bsfg-dark.service",
        "bsfg-firewall-device@.service",
        "bsfg-firewall-sets.service",
        "bsfg-firewall.service",
        "bsfg-local.service",
        "bsfg-names-sets.service",
        "bsfg-sensor.service",
        "bsfg-site.service",
        "bsfg-usb.service",
        "bsfg-watchdog.service",
    }
    assert {unit for unit, (_, devices, *_) in found.items() if "/dev/tpmrm0" in devices} == {
        "bsfg-keeper.service",
        "bsfg-local.service",
    }
    assert not [unit for unit, (privileges, *_) in found.items() if privileges & {"CAP_SYS_ADMIN", "CAP_NET_RAW"}]
    assert {unit for unit, (_, _, families) in found.items() if "AF_INET" in families} == {
        "bsfg-agent.service",
        "bsfg-enrol.service",
        "bsfg-names.service",
        "nats-control.service",
        "nats-facts.service",
    }
    assert {unit for unit in OURS if "PrivateNetwork=yes" in texts[unit]}.isdisjoint(
        unit for unit, (_, _, families) in found.items() if "AF_INET" in families
    )


def _rights(text: str) -> tuple[set[str], set[str], set[str]]:
    """Privileges, devices and socket families: what is left when all lines were read."""
    kept: dict[str, set[str]] = {"CapabilityBoundingSet": set(), "DeviceAllow": set(), "RestrictAddressFamilies": set()}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name not in kept:
            continue
        words = value.replace(" rw", "").split()
        if not words or words == ["none"]:
            kept[name] = set()
        elif words[0].startswith("~"):
            kept[name] -= {words[0][1:], *words[1:]}
        else:
            kept[name] |= set(words)
    return kept["CapabilityBoundingSet"], kept["DeviceAllow"], kept["RestrictAddressFamilies"]


def test_stars_and_exceptions() -> None:
    """A control for all but one reaches all but that one."""
    network = next(control for control in controls(Area.SANDBOX) if control.value == "PrivateNetwork=yes")
    assert "bsfg-agent.service" not in units_of(network)
    assert "bsfg-keeper.service" in units_of(network)
    assert json.dumps(sorted(units_of(network)))
