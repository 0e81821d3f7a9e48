# SPDX-License-Identifier: Apache-2.0
"""The unit of the status page: nobody logs in there, it reads nothing, and it is on both terminals."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.console.system import CREDENTIAL
from tools.image import hardening

UNITS = Path("image/mkosi.extra/usr/lib/systemd/system")


@pytest.fixture(scope="module")
def unit(root: Path) -> dict[str, list[str]]:
    """Every setting of the unit, with all its values."""
    settings: dict[str, list[str]] = {}
    for line in (root / UNITS / "bsfg-console@.service").read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            settings.setdefault(name, []).append(value)
    return settings


def test_nobody_logs_in_there(root: Path, unit: dict[str, list[str]]) -> None:
    """It takes the place of every getty, and no unit of ours starts one."""
    assert unit["Conflicts"] == ["getty@%i.service serial-getty@%i.service"]
    assert unit["StandardInput"] == ["null"]
    assert unit["StandardOutput"] == ["tty"]
    assert unit["TTYPath"] == ["/dev/%I"]
    started = [
        path
        for path in (root / UNITS).rglob("*")
        if path.is_file()
        and any("getty" in line for line in path.read_text("utf-8").splitlines() if "Conflicts" not in line)
    ]
    assert [path.name for path in started if path.name != "bsfg-console@.service"] == []


def test_it_lives_for_systemd(unit: dict[str, list[str]]) -> None:
    """Proven by pings, started again whenever it ends, by a user without rights, in isolated mode."""
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) > 10
    assert unit["Restart"] == ["always"]
    assert unit["User"] == ["bsfg-console"]
    assert unit["ExecStart"] == ["/usr/lib/bsfg/venv/bin/python -I -B -m appliance.console"]
    assert unit["LoadCredential"][0].startswith(f"{CREDENTIAL}:")
    assert unit["SetCredential"] == [f"{CREDENTIAL}:-"], "without a default the unit fails where there is no number"


def test_both_terminals_have_it(root: Path) -> None:
    """With the rest of the appliance."""
    text = (root / UNITS / "bsfg.target.d/console.conf").read_text("utf-8")
    assert "Wants=bsfg-console@tty1.service bsfg-console@ttyS0.service" in text


SHOWN = ("/sys/firmware/efi/efivars", "/sys/class/net", "/usr/lib/bsfg/image.json", "/run/bsfg/status", "/var")
"""What the page reads outside of /proc."""


def test_its_sandbox_lets_it_see_what_it_shows(root: Path, tmp_path: Path) -> None:
    """Firmware variables, and the box's own network; without the latter a kernel shows no port at all.

    It has no socket with which it could use that network.
    """
    hardening.render(tmp_path)
    text = (tmp_path / "usr/lib/systemd/system/bsfg-console@.service.d/50-sandbox.conf").read_text("utf-8")
    hidden: list[str] = []
    families: list[str] = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        words = value.split()
        if name == "InaccessiblePaths":
            hidden = [*hidden, *words] if words else []
        if name == "RestrictAddressFamilies":
            families = [] if words == ["none"] else [*families, *words]
    assert hidden, "some places are for nobody"
    for path in SHOWN:
        assert not [each for each in hidden if Path(path).is_relative_to(each.lstrip("-"))], path
    assert "PrivateNetwork=yes" not in text
    assert families == ["AF_UNIX"]
    assert "IPAddressDeny=any" in text
    assert "ProcSubset=all" in text
