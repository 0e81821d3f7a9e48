# SPDX-License-Identifier: Apache-2.0
"""Events of the kernel's device model: what udev hears, without udev (``NETLINK_KOBJECT_UEVENT``, group 1).

Only the kernel itself is believed: a process with privileges can send to that group too, and its messages carry its
number. Events that a program asked the kernel to repeat (``udevadm trigger`` at boot) carry ``SYNTH_UUID``. The kernel
sends events of devices that are not network devices to every network namespace, so a service without a network
hears them as well.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

KERNEL_GROUP: Final = 1
BUFFER: Final = 1024 * 1024
_LONGEST: Final = 16 * 1024
_PROTOCOL: Final = 15
"""NETLINK_KOBJECT_UEVENT of linux/netlink.h."""


@dataclass(frozen=True, slots=True)
class Uevent:
    """One event: ``add``, ``remove``, ``change``, …, of a device below ``/sys``, with what the driver says."""

    action: str
    device: str
    values: Mapping[str, str]

    @property
    def repeated(self) -> bool:
        """Whether a program asked for it; nothing has happened then."""
        return "SYNTH_UUID" in self.values

    @classmethod
    def parse(cls, data: bytes) -> Uevent | None:
        """A message of the kernel. ``None``: it is no event."""
        head, *rest = data.decode("utf-8", "replace").split("\0")
        action, at, device = head.partition("@")
        if not at:
            return None
        return cls(action, device, dict(pair.split("=", 1) for pair in rest if "=" in pair))


class Uevents:
    """A socket that hears them.

    :ivar lost: how often the kernel had to drop some because nobody read them.
    :raises OSError: there is no such socket.
    """

    def __init__(self, given: socket.socket | None = None) -> None:
        self.lost = 0
        self._socket = _listening() if given is None else given
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """Readable when there is one."""
        return self._socket.fileno()

    def read(self) -> list[Uevent]:
        """All that have come. :raises OSError: the socket fails."""
        found: list[Uevent] = []
        while True:
            try:
                data, sender = self._socket.recvfrom(_LONGEST)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.lost += 1
                continue
            if sender[0] != 0:  # somebody who is not the kernel
                continue
            event = Uevent.parse(data)
            if event is not None:
                found.append(event)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def _listening() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, _PROTOCOL)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        made.bind((0, KERNEL_GROUP))
    except OSError:
        made.close()
        raise
    return made
