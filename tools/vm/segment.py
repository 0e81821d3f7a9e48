# SPDX-License-Identifier: Apache-2.0
"""The plant's network beside a virtual machine: an Ethernet segment in a network namespace of its own.

The box's plant interface is at one end, programs of a test (producers, scanners) at the other. Nothing of it can be
seen from the host's own network, and nothing of the host's network from there. Works as root, or with user namespaces.

``python -m tools.vm.segment`` is the program that holds it open; it is not for people.
"""

from __future__ import annotations

import array
import fcntl
import os
import shutil
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path
from typing import Final, Self

from tools.vm.children import Child, program
from tools.vm.faults import VmError

DEVICE: Final = "plant0"
_TUN: Final = "/dev/net/tun"
_TUNSETIFF: Final = 0x400454CA
_TAP_NO_INFO: Final = 0x0002 | 0x1000
_READY_S: Final = 20.0
_ROOT: Final = Path(__file__).resolve().parent.parent.parent


class Segment:
    """One segment. :ivar descriptor: the tap device, for :class:`tools.vm.hardware.TapNetwork`."""

    def __init__(self, log: Path, address: str = "192.168.77.2/24") -> None:
        """:param address: of the programs at this end, with its prefix length."""
        self._log = log
        self._address = address
        self.descriptor = -1

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="bsfg-net-"))
        try:
            self._open()
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def _open(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as server:
            server.bind(str(self._folder / "tap"))
            server.listen(1)
            server.settimeout(_READY_S)
            self._child = Child(
                [sys.executable, "-m", "tools.vm.segment", str(self._folder / "tap"), self._address],
                self._log,
                prefix=[program("unshare"), *_namespaces()],
                cwd=_ROOT,
            )
            try:
                with server.accept()[0] as connection:
                    connection.settimeout(_READY_S)
                    self.descriptor = _receive(connection)
            except (OSError, VmError) as error:
                self._child.end()
                raise VmError(f"the plant's network cannot be made: {error}; {self._child.said()}") from error

    def __exit__(self, *_: object) -> None:
        self._child.end()
        os.close(self.descriptor)
        shutil.rmtree(self._folder, ignore_errors=True)

    def inside(self, *command: str) -> list[str]:
        """The command line that runs a command on this segment."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return [program("nsenter"), "--target", str(self._child.pid), *user, "--net", "--", *command]


def _namespaces() -> list[str]:
    return ["--net"] if os.geteuid() == 0 else ["--user", "--map-root-user", "--net"]


def _receive(connection: socket.socket) -> int:
    descriptors = array.array("i")
    _, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(descriptors.itemsize))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: descriptors.itemsize])
            return descriptors[0]
    raise VmError("no network device came")


def _hold(path: str, address: str) -> None:
    """Make the device, bring it up, hand it over, and keep the namespace open."""
    from pyroute2 import IPRoute  # type: ignore[import-untyped]

    tap = os.open(_TUN, os.O_RDWR)
    fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _TAP_NO_INFO))
    host, _, length = address.partition("/")
    with IPRoute() as route:
        index = route.link_lookup(ifname=DEVICE)[0]
        route.addr("add", index=index, address=host, prefixlen=int(length))
        for number in (index, route.link_lookup(ifname="lo")[0]):
            route.link("set", index=number, state="up")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        connection.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [tap]))])
    os.close(tap)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    _hold(sys.argv[1], sys.argv[2])
