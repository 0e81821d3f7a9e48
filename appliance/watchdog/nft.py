# SPDX-License-Identifier: Apache-2.0
"""The egress lease in nftables: one element with a timeout, in a set of the firewall.

The set stands in a table that packet sockets pass by; a chain on each device judges those. udev has it put there when
the device appears, and the kernel may take it away with the device. So each renewal looks first whether every device
that frames of the uplink leave by has its chain, and without it there is no lease.

libnftables runs in this process: a renewal takes 0.2 ms and no memory, where a process of ``nft`` for each took 17 ms.
All commands of one call are one transaction of the kernel, so the element is replaced with no moment in between. Adding
what is there already would not make it last longer; so it is added (for it may be gone), removed and added.
"""

from __future__ import annotations

import ctypes
import re
import socket
from dataclasses import dataclass
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.watchdog.lease import LEASE_S

LIBRARY: Final = "libnftables.so.1"
UPLINK: Final = "uplink0"
CARRIERS: Final = re.compile(r"uplink-bond|port[0-7]")
"""Devices that may be below the uplink, by the names that the site configuration gives them: bonds, ports of VLANs."""
JUDGING_TABLE: Final = "netdev bsfg"


@dataclass(frozen=True, slots=True)
class LeaseSet:
    """Where the lease stands in the firewall.

    :param element: of the set's type, in nftables' own words; the device that may send.
    """

    table: str = "inet bsfg"
    name: str = "lease"
    element: str = '"uplink0"'


class Nftables:
    """libnftables: commands in, one transaction for each call. Blocking; for one thread.

    :raises UnavailableError: ``bad_environment``: the library is not there.
    """

    def __init__(self) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{LIBRARY}: {error}") from error
        library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
        library.nft_ctx_buffer_output.argtypes = library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for getter in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            getter.argtypes, getter.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._library = library
        self._context = library.nft_ctx_new(0)
        if not self._context:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{LIBRARY} has no memory")
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, *commands: str) -> str:
        """Run commands as one transaction; what they print.

        :raises UnavailableError: ``firewall_fault`` in nftables' words; nothing has changed.
        """
        text = "\n".join(commands).encode()
        code = self._library.nft_run_cmd_from_buffer(self._context, text)
        output = self._library.nft_ctx_get_output_buffer(self._context) or b""
        error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code:
            first = error.decode(errors="replace").strip().splitlines()
            raise UnavailableError(Reason.FIREWALL_FAULT, f"nftables: {first[0] if first else code}")
        return str(output.decode(errors="replace"))


class NftLease:
    """An :class:`~appliance.watchdog.lease.EgressLease` on the box's firewall."""

    def __init__(self, place: LeaseSet | None = None) -> None:
        self._place = place or LeaseSet()
        self._nftables: Nftables | None = None

    def renew(self) -> None:
        """As the port says."""
        unjudged = self.unjudged()
        if unjudged:
            self.close()
            raise UnavailableError(Reason.FIREWALL_FAULT, f"no judge of frames on {', '.join(unjudged)}")
        self._run(self._added, self._deleted, self._added)

    def close(self) -> None:
        """As the port says."""
        self._run(self._added, self._deleted)

    def unjudged(self) -> list[str]:
        """Devices of the uplink without the chain that judges their frames, now; the uplink itself if it is not there.

        :raises UnavailableError: ``bad_environment``: the library is not there.
        """
        devices = {UPLINK, *(name for _, name in socket.if_nameindex() if CARRIERS.fullmatch(name))}
        return sorted(device for device in devices if not self._is_judged(device))

    def _is_judged(self, device: str) -> bool:
        try:
            listed = self._run(f"list chain {JUDGING_TABLE} {device}")
        except UnavailableError as error:
            if error.reason is not Reason.FIREWALL_FAULT:
                raise
            return False
        return _judged(device).fullmatch(" ".join(listed.split())) is not None

    @property
    def _added(self) -> str:
        at = self._place
        return f"add element {at.table} {at.name} {{ {at.element} timeout {LEASE_S}s }}"

    @property
    def _deleted(self) -> str:
        at = self._place
        return f"delete element {at.table} {at.name} {{ {at.element} }}"

    def _run(self, *commands: str) -> str:
        if self._nftables is None:
            self._nftables = Nftables()
        return self._nftables.run(*commands)


def _judged(device: str) -> re.Pattern[str]:
    """How nftables lists the chain of a device, in one line: it drops what the judge does not let through."""
    hook = rf'type filter hook egress devices? (= \{{ )?"{device}"( \}})? priority (filter|0); policy drop;'
    return re.compile(rf"table {JUDGING_TABLE} \{{ chain {device} \{{ {hook} jump judge \}} \}}")
