# SPDX-License-Identifier: Apache-2.0
"""What systemd hears, on a real notification socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.factlog.notify import ServiceManager


@pytest.fixture
def manager_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The service manager's end of the socket."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(path))
        end.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield end


def test_ready_is_said_once_and_every_round_pings(manager_socket: socket.socket) -> None:
    """Ready comes with the first round that is ready; a text comes when it changes."""
    manager = ServiceManager()
    manager.alive(ready=False, text="starting")
    manager.alive(ready=True, text="normal")
    manager.alive(ready=True, text="normal")
    manager.stopping()
    heard = [manager_socket.recv(4096).decode().split("\n") for _ in range(4)]
    assert heard == [
        ["WATCHDOG=1", "STATUS=starting"],
        ["WATCHDOG=1", "READY=1", "STATUS=normal"],
        ["WATCHDOG=1"],
        ["STOPPING=1"],
    ]


def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a laptop there is nobody to tell."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    manager = ServiceManager()
    manager.alive(ready=True, text="normal")
    manager.stopping()
