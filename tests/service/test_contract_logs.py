# SPDX-License-Identifier: Apache-2.0
"""The logs on a real broker keep the contract of all logs."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from appliance.boundary.policy import CategoryPolicy
from appliance.brokers.config import MIB
from appliance.factlog.streams import DEAD_LETTERS
from tests.contracts.logs import AUDIT, SMALL, LogsContract, Shelf
from tests.wires import real_logs

POLICIES = {AUDIT: CategoryPolicy(max_bytes=16 * MIB), SMALL: CategoryPolicy(max_bytes=MIB)}


class TestJetStreamLogs(LogsContract):
    """On a nats-server of their own."""

    @pytest.fixture
    async def shelf(self, tmp_path: Path) -> AsyncIterator[Shelf]:
        """A new broker, ended afterwards."""
        async with real_logs(tmp_path, POLICIES) as log:

            async def dead_letters() -> list[bytes]:
                info = await log.wire.request_json(f"$JS.API.STREAM.INFO.{DEAD_LETTERS}")
                found = []
                for seq in range(1, int(info["state"]["last_seq"]) + 1):
                    answer = await log.wire.request_json(f"$JS.API.STREAM.MSG.GET.{DEAD_LETTERS}", {"seq": seq})
                    found.append(base64.b64decode(answer["message"]["data"]))
                return found

            yield Shelf(log.logs, lambda: log.reopened(POLICIES), dead_letters)
