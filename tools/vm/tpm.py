# SPDX-License-Identifier: Apache-2.0
"""The software TPM of a virtual machine: made by a simulated vendor, copied with the machine's disk, run beside it.

The guest's kernel sees a TPM 2.0 on its bus and cannot tell it from a chip. Whoever reads the state folder has its
keys.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from appliance.keys.tpm.manufacture import STATE, make_software_tpm
from tools.vm.children import Child, program
from tools.vm.faults import VmError

VENDOR_CAS = "vendor-cas.pem"
_READY_S = 20.0


def make_tpm(folder: Path, vendor: Path) -> Path:
    """Make a TPM in ``folder`` and put the vendor's CA certificates beside it; the folder of its state.

    :param vendor: folder of the simulated vendor's CA; made if it is not there. TPMs of one vendor share it.
    """
    made = make_software_tpm(folder, vendor)
    (folder / VENDOR_CAS).write_bytes(made.vendor_cas)
    return made.state


def copy_tpm(source: Path, target: Path) -> Path:
    """Copy a TPM that does not run, with everything it keeps over a power cut; the folder of the copy's state."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".lock", "*.sock", "*.log", "vendor"))
    return target / STATE


class SoftwareTpm:
    """A running swtpm. It ends when QEMU hangs up, or with the ``with``."""

    def __init__(self, state: Path, log: Path) -> None:
        """:param state: the folder of its state. :param log: where it writes what happens."""
        self.state = state
        self._log = log
        self._folder = Path(tempfile.mkdtemp(prefix="bsfg-tpm-"))  # short: a socket's path has 107 bytes
        self._child: Child | None = None

    @property
    def socket(self) -> Path:
        """The control channel, for QEMU."""
        return self._folder / "control"

    def __enter__(self) -> Self:
        self._child = Child(
            [
                program("swtpm"),
                "socket",
                "--tpm2",
                *("--tpmstate", f"dir={self.state}"),
                *("--ctrl", f"type=unixio,path={self.socket}"),
                "--terminate",
            ],
            self._log,
        )
        try:
            _await(self.socket.exists, self._child)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
        shutil.rmtree(self._folder, ignore_errors=True)


@contextmanager
def served_by_tcp(state: Path, log: Path) -> Iterator[str]:
    """Run a TPM for a program on the host that speaks to it; how the TPM libraries and systemd find it.

    This is what somebody does who has the box's disk *and* its TPM on the bench: it is started as by a power-on, so its
    PCRs are zero.
    """
    port = _free_pair()
    command = [
        program("swtpm"),
        "socket",
        "--tpm2",
        *("--tpmstate", f"dir={state}"),
        *("--flags", "not-need-init,startup-clear"),
        *("--server", f"type=tcp,port={port},bindaddr=127.0.0.1"),
        *("--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1"),
    ]
    with Child(command, log) as child:
        _await(lambda: {port, port + 1} <= _listening(), child)
        yield f"swtpm:host=127.0.0.1,port={port}"


def _await(ready: Callable[[], bool], child: Child) -> None:
    deadline = time.monotonic() + _READY_S
    while not ready():
        if not child.alive:
            raise VmError(f"swtpm ended with {child.code}: {child.said()}")
        if time.monotonic() > deadline:
            raise VmError(f"swtpm is not ready after {_READY_S:g} s: {child.said()}")
        time.sleep(0.02)


def _free_pair() -> int:
    """A port that is free, and the one above it too: the TPM libraries look for the control channel there."""
    for port in range(23_000, 29_000, 2):
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
    raise VmError("no free pair of ports")


def _listening() -> set[int]:
    """The TCP ports that something listens on, seen from outside: swtpm serves one client at a time."""
    ports = set()
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A":
            ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
