# SPDX-License-Identifier: Apache-2.0
"""Audit in memory: a test says what is recorded, and what it says of itself."""

from __future__ import annotations

import os

from appliance.watchdog.netlink import NetlinkMessage
from appliance.watchdog.probes.audit import AuditStatus


class FakeAudit:
    """An :class:`~appliance.watchdog.probes.audit.AuditSource`."""

    def __init__(self, status: AuditStatus) -> None:
        self.now = status
        self.fails = False
        self.missed = False
        self._pending: list[NetlinkMessage] = []
        self._reader, self._writer = os.pipe()

    def record(self, kind: int, body: bytes) -> None:
        """The kernel records something."""
        self._pending.append(NetlinkMessage(kind, 0, body))
        os.write(self._writer, b"!")

    def status(self) -> AuditStatus:
        """As the port says."""
        if self.fails:
            raise OSError("the test says so")
        return self.now

    def records(self) -> tuple[list[NetlinkMessage], bool]:
        """As the port says."""
        found, self._pending = self._pending, []
        if found:
            os.read(self._reader, len(found))
        return found, self.missed

    def fileno(self) -> int:
        """As the port says."""
        return self._reader

    def close(self) -> None:
        """As the port says."""
        os.close(self._reader)
        os.close(self._writer)
