# SPDX-License-Identifier: Apache-2.0
"""The text of the firewall: it can be loaded, each rule has its control, nothing is open by default."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.site.egress import SETS, TABLE
from appliance.watchdog.nft import LeaseSet
from tests.firewalled import AGENT, CONTROL, ENROL, NAMES, numbered
from tools.image import hardening
from tools.image.hardening.build import DEVICE_RULES, DEVICES, FIREWALL
from tools.image.hardening.data import Area, controls

FindTool = Callable[[str], str]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image gets."""
    root = tmp_path_factory.mktemp("root")
    hardening.render(root)
    return root


@pytest.fixture(scope="module")
def rules(tree: Path) -> str:
    """The firewall."""
    return (tree / FIREWALL).read_text("utf-8")


def test_each_rule_names_its_control(rules: str) -> None:
    """And each control of the firewall has a rule."""
    named = set(re.findall(r'comment "(HRD-NET-\d{3})"', rules))
    assert named == {control.id for control in controls(Area.FIREWALL)}
    verdicts = [
        line.strip() for line in rules.splitlines() if re.search(r"\b(accept|drop)\b", line) and "policy" not in line
    ]
    assert len(verdicts) > 30
    assert [line for line in verdicts if "counter" not in line or "comment" not in line] == []


def test_everything_is_closed_by_default(rules: str, tree: Path) -> None:
    """Each chain of the kernel drops what no rule lets through, on each device too."""
    hooks = re.findall(r"hook (\w+) .*policy (\w+);", rules)
    assert dict(hooks) == {"input": "drop", "forward": "drop", "output": "drop"}
    assert {path.stem for path in (tree / DEVICE_RULES).iterdir()} == set(DEVICES)
    for device in DEVICES:
        text = (tree / DEVICE_RULES / f"{device}.nft").read_text("utf-8")
        assert f'type filter hook egress device "{device}" priority filter; policy drop;' in text


def test_logs_are_limited(rules: str) -> None:
    """A flood does not fill the journal."""
    logs = [line for line in rules.splitlines() if " log " in line]
    assert len(logs) == 2
    assert all("limit rate 1/second" in line for line in logs)


def test_users_and_sets_are_those_of_the_others(rules: str, root: Path) -> None:
    """The numbers of the users, the sets that the site configuration fills, and the watchdog's lease."""
    users = (root / "image/mkosi.extra/usr/lib/sysusers.d/bsfg.conf").read_text("utf-8")
    for name, number in (("agent", AGENT), ("control", CONTROL), ("enrol", ENROL), ("names", NAMES)):
        assert f"define {name} = {number}\n" in rules
        assert f"\nu bsfg-{name} {number} " in users
    assert f"table {TABLE} {{" in rules
    for name in SETS:
        assert f"    set {name} {{" in rules
    lease = LeaseSet()
    assert (lease.table, lease.name, lease.element) == (TABLE, "lease", '"uplink0"')
    assert "set lease { type ifname; flags timeout; }" in rules


def test_nft_takes_it(rules: str, tree: Path, find_tool: FindTool) -> None:
    """The syntax, checked by nft itself in an empty network namespace."""
    nft, unshare = find_tool("nft"), shutil.which("unshare")
    inside = [unshare or "unshare", "-n"] if os.geteuid() == 0 else [unshare or "unshare", "-Urn"]
    if subprocess.run([*inside, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no network namespaces here")
    devices = "".join((tree / DEVICE_RULES / f"{device}.nft").read_text("utf-8") for device in DEVICES)
    good = numbered(rules)
    unhooked = re.sub(r"type filter hook egress .*\n", "\n", devices)
    for text, fits in ((good, True), (good + unhooked, True), (good.replace("goto leased", "goto nowhere"), False)):
        outcome = subprocess.run(
            [*inside, nft, "-c", "-f", "-"], input=text, capture_output=True, text=True, check=False
        )
        assert (outcome.returncode == 0) is fits, outcome.stderr
