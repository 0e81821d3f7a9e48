# SPDX-License-Identifier: Apache-2.0
"""The processes a benchmark starts; each is ended by its own id."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import trio

from tests.bench.failure import BenchError

ROOT: Final = Path(__file__).resolve().parents[2]
_STOP_S: Final = 8.0
_LOG_TAIL: Final = 1500


def python_environment() -> dict[str, str]:
    """The environment variables with which another Python finds this very checkout."""
    paths = [str(ROOT), *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def python_command(module: str, *arguments: str | Path) -> list[str | Path]:
    """How to run a module of this checkout."""
    return [sys.executable, "-P", "-m", module, *arguments]


def listens(host: str, port: int) -> bool:
    """Whether somebody takes connections there."""
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Child:
    """A process of ours, with its output in a log."""

    def __init__(self, process: trio.Process, log: Path) -> None:
        self._process = process
        self._log = log

    @classmethod
    async def start(cls, command: Sequence[str | Path], log: Path, cwd: Path | None = None) -> Child:
        """Start it; it does not hear Ctrl-C, since whoever started it ends it."""
        with log.open("wb") as output:
            process = await trio.lowlevel.open_process(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=python_environment(),
                cwd=cwd,
                start_new_session=True,
            )
        return cls(process, log)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    async def wait_until(self, ready: Callable[[int], bool], what: str, limit_s: float) -> None:
        """Wait until ``ready(pid)``. :raises BenchError: it ended, or was not ready in time."""
        with trio.move_on_after(limit_s):
            while not ready(self.pid):
                if self._process.poll() is not None:
                    raise BenchError(f"{what} ended with {self._process.returncode}: {self.tail()}")
                await trio.sleep(0.02)
            return
        raise BenchError(f"{what} was not ready within {limit_s:g} s: {self.tail()}")

    async def stop(self) -> None:
        """End it in good order, or by force."""
        with trio.CancelScope(shield=True):
            with suppress(ProcessLookupError):
                self._process.terminate()
            with trio.move_on_after(_STOP_S):
                await self._process.wait()
                return
            self._process.kill()
            await self._process.wait()

    def tail(self) -> str:
        """The end of its log."""
        return self._log.read_bytes()[-_LOG_TAIL:].decode(errors="replace").strip()


async def run_job(module: str, job: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
    """Run a module that reads a JSON object and writes one. :raises BenchError: it failed, or took too long."""
    with trio.move_on_after(limit_s):
        outcome = await trio.run_process(
            python_command(module),
            stdin=json.dumps(job).encode(),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env=python_environment(),
        )
        if outcome.returncode:
            raise BenchError(f"{module}: {outcome.stderr.decode(errors='replace')[-_LOG_TAIL:].strip()}")
        result: dict[str, Any] = json.loads(outcome.stdout)
        return result
    raise BenchError(f"{module} did not end within {limit_s:g} s")
