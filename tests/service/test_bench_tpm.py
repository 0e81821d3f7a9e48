# SPDX-License-Identifier: Apache-2.0
"""The relay that makes a TPM slow: every command waits, and all of them come through whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from appliance.keys.tpm.device import Device
from appliance.keys.tpm.policy import BOUND_PCRS
from tests.bench.children import Child, listens, python_command
from tests.tpm import SoftwareTpm, free_pair, software_tpm

WAIT_S = 0.05


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[SoftwareTpm]:
    """A TPM without a relay."""
    with software_tpm(tmp_path / "tpm") as tpm:
        yield tpm


async def test_every_command_waits(tpm: SoftwareTpm, tmp_path: Path) -> None:
    """And gives the same answers as without it."""
    commands: list[str] = []

    def read(tcti: str) -> tuple[dict[int, bytes], float]:
        with Device(tcti, hook=commands.append) as device:
            device.ensure_srk()
            before, began = len(commands), time.monotonic()
            values = [device.pcr_read(BOUND_PCRS) for _ in range(5)]
            return values[-1], (time.monotonic() - began) / (len(commands) - before)

    port = free_pair()
    command = python_command("tests.bench.slow_tpm", str(port), str(tpm.port), str(WAIT_S))
    relay = await Child.start(command, tmp_path / "relay.log")
    try:
        await relay.wait_until(lambda _: listens("127.0.0.1", port + 1), "the relay", 10)
        direct, _ = await trio.to_thread.run_sync(read, tpm.tcti)
        relayed, seconds = await trio.to_thread.run_sync(read, f"swtpm:host=127.0.0.1,port={port}")
    finally:
        await relay.stop()
    assert relayed == direct
    assert seconds >= WAIT_S
