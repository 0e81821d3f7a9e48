# SPDX-License-Identifier: Apache-2.0
"""The egress lease in nftables: one element with a timeout, in a set of the firewall.

The set stands in a table that packet sockets pass by; a chain on each device judges those. udev has it put there when
the device appears, and the kernel may take it away with the device. So each renewal looks first whether every device
that frames of the uplink leave by has its chain, and without it there is no lease.

libnftables runs in this process: a renewal takes 0.2 ms and no memory, where a process of ``nft`` for each took 17 ms.
All commands of one call are one transaction of the kernel, so the element is replaced with no moment in between. Adding
what is there already would not make it last longer; so it is added (for it may be gone), removed and added.

In quarantine the uplink stands in the sets ``dark`` of both tables, which they ask before anything else, with the code
of the suspicion as the element's comment. But rules that somebody has changed may not ask these sets any more, and may
be the very reason for the quarantine. So a wall of our own is built beside them at once, which lets nothing out on the
uplink, nor on what only the uplink stands on: what one chain of the kernel's drops, no rule of another can let pass.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag
from typing import Final

from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.watchdog.carriers import CARRIERS, links, of_the_uplink
from appliance.watchdog.lease import LEASE_S

LIBRARY: Final = "libnftables.so.1"
UPLINK: Final = "uplink0"
JUDGING_TABLE: Final = "netdev bsfg"
DARK: Final = "dark"
"""The set of that name in both tables of the firewall."""
DARK_TABLES: Final = ("inet bsfg", JUDGING_TABLE)
WALL_TABLES: Final = ("inet bsfg-dark", "netdev bsfg-dark")
"""The wall beside them; asked long before the firewall (priority filter is 0)."""
_BEFORE_ALL: Final = -500
_WALL: Final = re.compile(
    rf'type filter hook output priority {_BEFORE_ALL}; policy accept; oifname "{UPLINK}" drop comment "[a-z0-9_]+"'
)
"""How nftables lists the wall's chain for packets, in one line."""
_ONE_AT_A_TIME: Final = threading.Lock()
"""The library keeps lists of its own for all its contexts (of the devices, for one) and locks none: two threads in it,
each with a context of its own, end the process with a segmentation fault (seen). The longest call lists all rules."""
_WHY: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_COMMENT: Final = re.compile(r'comment "([a-z0-9_]*)"')


@dataclass(frozen=True, slots=True)
class LeaseSet:
    """Where the lease stands in the firewall.

    :param element: of the set's type, in nftables' own words; the device that may send.
    """

    table: str = "inet bsfg"
    name: str = "lease"
    element: str = '"uplink0"'


class Listing(IntFlag):
    """How much a listing says (libnftables(3), ``nft_ctx_output_set_flags``)."""

    EVERYTHING = 0
    _STATELESS = 1 << 2
    _NUMERIC = 0b1111 << 7
    _TERSE = 1 << 11
    RULES = _STATELESS | _NUMERIC | _TERSE
    """No counters, no names for numbers, no elements of named sets."""
    ELEMENTS = _NUMERIC


class Nftables:
    """libnftables: commands in, one transaction for each call. Blocking; for one thread.

    :raises UnavailableError: ``bad_environment``: the library is not there.
    """

    def __init__(self, listing: Listing = Listing.EVERYTHING) -> None:
        try:
            library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{LIBRARY}: {error}") from error
        library.nft_ctx_new.argtypes, library.nft_ctx_new.restype = [ctypes.c_uint32], ctypes.c_void_p
        library.nft_ctx_buffer_output.argtypes = library.nft_ctx_buffer_error.argtypes = [ctypes.c_void_p]
        library.nft_ctx_free.argtypes, library.nft_ctx_free.restype = [ctypes.c_void_p], None
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        for getter in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
            getter.argtypes, getter.restype = [ctypes.c_void_p], ctypes.c_char_p
        self._library = library
        with _ONE_AT_A_TIME:
            self._context = library.nft_ctx_new(0)
        if not self._context:
            raise UnavailableError(Reason.BAD_ENVIRONMENT, f"{LIBRARY} has no memory")
        library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        library.nft_ctx_output_set_flags(self._context, int(listing))
        library.nft_ctx_buffer_output(self._context)
        library.nft_ctx_buffer_error(self._context)

    def run(self, *commands: str) -> str:
        """Run commands as one transaction; what they print.

        :raises UnavailableError: ``firewall_fault`` in nftables' words; nothing has changed.
        """
        text = "\n".join(commands).encode()
        with _ONE_AT_A_TIME:
            code = self._library.nft_run_cmd_from_buffer(self._context, text)
            output = self._library.nft_ctx_get_output_buffer(self._context) or b""
            error = self._library.nft_ctx_get_error_buffer(self._context) or b""
        if code:
            first = error.decode(errors="replace").strip().splitlines()
            raise UnavailableError(Reason.FIREWALL_FAULT, f"nftables: {first[0] if first else code}")
        return str(output.decode(errors="replace"))

    def close(self) -> None:
        """Give it back; what it has read is forgotten, the definitions of a file among it."""
        with _ONE_AT_A_TIME:
            self._library.nft_ctx_free(self._context)


class NftLease:
    """The box's firewall, for one thread.

    An :class:`~appliance.watchdog.lease.EgressLease` and a :class:`~appliance.watchdog.lease.Blackout`.
    """

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

    def dark(self, why: str) -> None:
        """As the port says. With a whole firewall it is one transaction; then the wall is built as well."""
        if not _WHY.fullmatch(why):
            raise ValueError("not a code")
        element = f'{self._place.element} comment "{why}"'
        anew = (("add", element), ("delete", self._place.element), ("add", element))  # or an old comment would stay
        darkened = [f"{verb} element {table} {DARK} {{ {it} }}" for table in DARK_TABLES for verb, it in anew]
        try:
            self._run(self._added, self._deleted, *darkened)
        except UnavailableError as error:
            if error.reason is not Reason.FIREWALL_FAULT:
                raise
            self._build_wall(why)
            for commands in (darkened[:3], darkened[3:], (self._added, self._deleted)):
                with contextlib.suppress(UnavailableError):
                    self._run(*commands)
        else:
            self._build_wall(why)

    def darkened(self) -> str | None:
        """As the port says."""
        try:
            return _why(self._run(f"list table {WALL_TABLES[0]}"))
        except UnavailableError as error:
            if error.reason is not Reason.FIREWALL_FAULT:
                raise
        for table in DARK_TABLES:
            listed = self._run(f"list set {table} {DARK}")
            if "elements" in listed:
                return _why(listed)
        return None

    def light(self) -> None:
        """As the port says."""
        walls = [f"{verb} table {table}" for table in WALL_TABLES for verb in ("add", "delete")]
        sets = [f"flush set {table} {DARK}" for table in DARK_TABLES]
        self._run(self._added, self._deleted, *walls, *sets)

    def _build_wall(self, why: str) -> None:
        """Drop whatever leaves on the uplink, and frames where its device is there.

        :raises UnavailableError: ``firewall_fault``.
        """
        inet, netdev = WALL_TABLES
        anew = [f"{verb} table {table}" for table in WALL_TABLES for verb in ("add", "delete", "add")]
        packets = (
            f"add chain {inet} out {{ type filter hook output priority {_BEFORE_ALL}; policy accept; }}",
            f'add rule {inet} out oifname "{UPLINK}" drop comment "{why}"',
        )
        frames, below = _stop(netdev, "out", UPLINK), [_stop(netdev, name, name) for name in _carriers()]
        ways = [(frames, *below), (frames,), tuple(below), ()]  # a device may go at this moment, or not be there yet
        for way in ways:
            try:
                self._run(*anew, *packets, *way)
            except UnavailableError as error:
                if error.reason is not Reason.FIREWALL_FAULT or way is ways[-1]:
                    raise
            else:
                return

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


def is_wall(table: str, chains: Mapping[str, str]) -> bool:
    """Whether a listed table is a part of the wall, and nothing else. :param chains: its parts by their names."""
    packets, frames = WALL_TABLES
    listed = {name.removeprefix("chain "): " ".join(text.split()) for name, text in chains.items() if text or name}
    if table == packets:
        return set(listed) == {"out"} and bool(_WALL.fullmatch(listed["out"]))
    devices = {name: UPLINK if name == "out" else name for name in listed if name == "out" or CARRIERS.fullmatch(name)}
    return table == frames and all(text == _hook(devices.get(name, "")) for name, text in listed.items())


def _hook(device: str) -> str:
    """What lets no frame out of a device, as nftables lists it."""
    return f'type filter hook egress device "{device}" priority {_BEFORE_ALL}; policy drop;'


def _stop(table: str, chain: str, device: str) -> str:
    """A chain that lets no frame out of a device."""
    return f"add chain {table} {chain} {{ {_hook(device)} }}"


def _carriers() -> tuple[str, ...]:
    """What only the uplink stands on; none where the kernel does not say: the uplink itself is dark all the same."""
    try:
        return of_the_uplink(UPLINK, links())
    except (OSError, ValueError):
        return ()


def _why(listed: str) -> str:
    """The comment in what nftables lists; empty: none, or none of ours."""
    found = _COMMENT.search(listed)
    return found[1] if found else ""


def _judged(device: str) -> re.Pattern[str]:
    """How nftables lists the table with the chain of a device, in one line."""
    return re.compile(rf"table {JUDGING_TABLE} \{{ chain {device} \{{ {judge_of(device).pattern} \}} \}}")


def judge_of(device: str) -> re.Pattern[str]:
    """What the chain of a device must be, in one line: it drops what the judge does not let through."""
    hook = rf'type filter hook egress devices? (= \{{ )?"{device}"( \}})? priority (filter|0); policy drop;'
    return re.compile(rf"{hook} jump judge")
