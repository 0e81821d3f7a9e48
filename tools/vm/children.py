# SPDX-License-Identifier: Apache-2.0
"""Processes that end with whoever started them: on leaving a ``with``, and when this program is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tools.vm.faults import NotBuiltError, VmError

_GRACE_S = 5.0


def program(name: str) -> str:
    """The path of a program. :raises NotBuiltError: it is not installed."""
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]))
    if found is None:
        raise NotBuiltError(f"{name} is not installed; 'tools/vm/setup.sh' installs what virtual machines need")
    return found


class Child:
    """One process. Start it from the main thread: the kernel ends it when the thread that started it is gone."""

    def __init__(
        self,
        command: Sequence[str | Path],
        log: Path,
        *,
        prefix: Sequence[str] = (),
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start it. :param log: what it prints is appended here. :param prefix: what it is started by (``unshare``)."""
        self.log = log
        self.name = Path(command[0]).name
        tied = [*prefix, program("setpriv"), "--pdeathsig", "KILL", "--", *map(str, command)]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                tied,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=pass_fds,
                env=None if environment is None else {**os.environ, **environment},
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is for us; we end it
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def code(self) -> int | None:
        """Its exit code; negative for a signal; ``None`` while it runs."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Wait for its end. :raises VmError: it still runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise VmError(f"{self.name} still runs after {seconds:.0f} s") from error

    def end(self, grace: float = _GRACE_S) -> None:
        """Ask it to end, then kill it. It is gone when this returns."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        """SIGKILL: as a power cut for a machine."""
        if self.alive:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def said(self, lines: int = 10) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def run(command: Sequence[str | Path], *, seconds: float = 120.0, stdin: bytes | None = None) -> bytes:
    """Run a program to its end; what it printed. :raises VmError: it failed, with what it said."""
    argv = [program(str(command[0])), *map(str, command[1:])]
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
    try:
        done = subprocess.run(
            argv,
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=seconds,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        raise VmError(f"{argv[0]} was not done within {seconds:.0f} s") from error
    if done.returncode:
        said = (done.stderr or done.stdout).decode("utf-8", "replace")[-2000:]
        raise VmError(f"{' '.join(argv)} ended with {done.returncode}: {said}")
    return done.stdout
