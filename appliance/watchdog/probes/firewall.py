# SPDX-License-Identifier: Apache-2.0
"""Whether the firewall's rules are those of the image; told of every change by the kernel.

What the rules must be, the kernel itself says: when the watchdog starts, the image's file is loaded once more under
another name, as a table that is dormant (it judges no packet), listed, and removed. So the baseline is the file of the
verified image in the words of this kernel, and not what somebody may have loaded before. If anybody changes the
firewall during that moment, it is done again.

Rules are compared without counters. Elements of the sets that open the box must stand in the scripts by which they
were filled. A device that is there and has no judge is told apart: that is so for a moment when it comes back.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from appliance.boundary.errors import BsfgError, UnavailableError
from appliance.boundary.reasons import Reason
from appliance.watchdog.netlink import Netlink, NetlinkMessage, attributes, each_attribute, text
from appliance.watchdog.nft import JUDGING_TABLE, Listing, Nftables, is_wall, judge_of
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.suspicions import Code, ProbeName

PERIOD_S: Final = 10.0
OWN: Final = ("inet bsfg", JUDGING_TABLE)
REFERENCE: Final = "bsfg-reference"
OPENING: Final = (
    *(f"{purpose}{version}" for purpose in ("hub", "resolver", "time", "proxy") for version in (4, 6)),
    "plant_ingress",
)
"""The sets whose elements let packets pass for as long as they are there (``appliance.site.egress.SETS``)."""
LEASE: Final = "lease"
LEASED: Final = '"uplink0"'
ATTEMPTS: Final = 20
AGAIN_S: Final = 0.3
"""A script that replaces a set's elements is written down just before it is run."""
_NETLINK_NETFILTER: Final = 12
_GROUP_NFTABLES: Final = 7
_SUBSYSTEM: Final = 10
_NEW_GENERATION, _SET_ELEMENTS = 15, {12, 14}
_NFGEN: Final = 4
_GET_GENERATION: Final = 16
_ELEMENT: Final = re.compile(r"add element inet bsfg (\w+) \{ (.+) \}")


@dataclass(frozen=True, slots=True)
class FirewallPlaces:
    """Where the image's rules are, and what filled the sets; the files need not be there."""

    rules: Path = Path("/usr/lib/bsfg/firewall.nft")
    devices: Path = Path("/usr/lib/bsfg/firewall-device")
    scripts: tuple[Path, ...] = (Path("/run/bsfg/config/sets.nft"), Path("/run/bsfg/watchdog/names-sets.nft"))

    @classmethod
    def below(cls, root: Path) -> Self:
        """The same files below a folder."""
        found = cls()
        rules, devices = (root / path.relative_to("/") for path in (found.rules, found.devices))
        return cls(rules, devices, tuple(root / path.relative_to("/") for path in found.scripts))


def _reference(table: str) -> str:
    return f"{table.split(maxsplit=1)[0]} {REFERENCE}"


_AWAY: Final = tuple(f"add table {_reference(table)}\ndelete table {_reference(table)}" for table in OWN)
Blocks = Mapping[str, str]
"""The parts of a table: ``chain input``, ``set hub4``; under the empty name what belongs to the table itself."""


@dataclass(frozen=True, slots=True)
class Script:
    """What fills sets. :param number: of its file, another one each time it is replaced."""

    number: int = 0
    written_ns: int = 0
    text: str = ""


class FirewallProbe:
    """A :class:`~appliance.watchdog.probing.Probe`; looks within a tenth of a second, at first within a few.

    :param rules: the image's rules, from its file; tests change the names of users in them.
    """

    name = ProbeName.FIREWALL
    period_s = PERIOD_S

    def __init__(self, places: FirewallPlaces | None = None, rules: Callable[[str], str] = lambda rules: rules) -> None:
        self._places, self._rules = places or FirewallPlaces(), rules
        self._events: Netlink | None = None
        self._nftables: Nftables | None = None
        self._sets: Nftables | None = None
        self._expected: Mapping[str, Blocks] | None = None
        self._scripts: tuple[Script, ...] = ()
        self._last: Reading | None = None
        self._looked_at = -float("inf")
        self._judged: Mapping[str, bool] = {}

    def descriptor(self) -> int | None:
        """As the port says."""
        try:
            return self._listening().fileno()
        except OSError:
            return None

    def look(self) -> Reading:
        """As the port says. The watchdog's own lease is no reason to list the rules."""
        try:
            by, devices = self._changed(), self._devices()
            recent = time.monotonic() - self._looked_at < self.period_s - 1.0
            if by is None and recent and devices == self._judged and self._last is not None:
                return self._last
            self._last, self._looked_at, self._judged = self._compared(by or "", devices), time.monotonic(), devices
        except (BsfgError, OSError, ValueError) as error:
            self._last = None
            return Reading(self.name, blind=str(error))
        return self._last

    def close(self) -> None:
        """As the port says."""
        if self._events is not None:
            self._events.close()
            self._events = None

    def _listening(self) -> Netlink:
        if self._events is None:
            self._events = Netlink(_NETLINK_NETFILTER, _GROUP_NFTABLES)
        return self._events

    def _changed(self) -> str | None:
        """Who changed more than the lease since last time, as the kernel names it; ``None``: nobody."""
        messages, lost = self._listening().events()
        found = "?" if lost else None
        pending = False
        for message in messages:
            if message.kind == _SUBSYSTEM << 8 | _NEW_GENERATION:
                found = _process(message) if pending else found
                pending = False
            else:
                pending = pending or not _is_lease(message)
        return found or ("?" if pending else None)

    def _compared(self, by: str, devices: Mapping[str, bool]) -> Reading:
        nftables = self._nftables = self._nftables or Nftables(Listing.RULES)
        if self._expected is None:
            self._expected = self._baseline(nftables)
        found = tables(nftables.run("list ruleset"))
        seen = list(differences(self._expected, found, devices))
        seen += self._elements(found)
        if by and seen:
            seen = [Seen(each.code, f"{each.detail} (last changed by {by})") for each in seen]
        facts = {"rules": str(sum(each.count("\n") for table in found.values() for each in table.values()))}
        return Reading(self.name, tuple(seen), facts=facts)

    def _baseline(self, nftables: Nftables) -> Mapping[str, Blocks]:
        """What the image's rules are in this kernel. :raises UnavailableError: ``not_ready``, ``firewall_fault``."""
        try:
            rules = self._rules(self._places.rules.read_text("utf-8"))
        except OSError as error:
            raise UnavailableError(Reason.NOT_READY, f"{self._places.rules}: {error.strerror}") from error
        for _ in range(ATTEMPTS):
            before = self._generation()
            with closing(Nftables()) as once:  # of its own: it remembers what the file defines
                try:
                    once.run(*_AWAY, reference_of(rules))
                    listed = tables(nftables.run("list ruleset"))
                    undisturbed = self._generation() == before + 1
                finally:
                    once.run(*_AWAY)
            if undisturbed:
                return {table: _awake(listed[_reference(table)]) for table in OWN}
        raise UnavailableError(Reason.NOT_READY, "somebody changes the firewall all the time")

    def _generation(self) -> int:
        """How often the firewall was changed."""
        with Netlink(_NETLINK_NETFILTER) as kernel:
            (answer,) = kernel.ask(_SUBSYSTEM << 8 | _GET_GENERATION, bytes(_NFGEN), flags=0)
        (number,) = struct.unpack(">I", attributes(answer.body[_NFGEN:])[1])
        return int(number)

    def _devices(self) -> dict[str, bool]:
        """The devices that have a judge by the image's files, and whether they are there."""
        there = {name for _, name in socket.if_nameindex()}
        return {path.stem: path.stem in there for path in sorted(self._places.devices.glob("*.nft"))}

    def _elements(self, found: Mapping[str, Blocks]) -> list[Seen]:
        """Elements that nobody who may has put there.

        Who may writes a script down, and then runs it. So if the scripts are those of the last look, what is new is
        foreign; if not, one of them may be about to be run, and it is looked at twice.
        """
        foreign, scripts = self._foreign(found)
        if foreign and scripts != self._scripts:
            time.sleep(AGAIN_S)
            again, scripts = self._foreign(found)
            foreign &= again
        self._scripts = scripts
        return [Seen(Code.FIREWALL_CHANGED, f"set {name} has {element}") for name, element in sorted(foreign)]

    def _foreign(self, found: Mapping[str, Blocks]) -> tuple[set[tuple[str, str]], tuple[Script, ...]]:
        """Elements that are in no script, and which scripts these are. What is in the sets is asked first."""
        nftables = self._sets = self._sets or Nftables(Listing.ELEMENTS)
        blocks = found.get(OWN[0], {})
        names = [name for name in (*OPENING, LEASE) if f"set {name}" in blocks]
        there = {(name, each) for name in names for each in elements(nftables.run(f"list set {OWN[0]} {name}"))}
        scripts = tuple(_script(path) for path in self._places.scripts)
        allowed = {(LEASE, LEASED)}.union(*(filled(each.text) for each in scripts))
        return there - allowed, scripts


def _script(path: Path) -> Script:
    """One that fills sets; an empty one where there is none."""
    try:
        with path.open("rb") as file:
            state = os.fstat(file.fileno())
            return Script(state.st_ino, state.st_mtime_ns, file.read().decode())
    except FileNotFoundError:
        return Script()


def reference_of(rules: str) -> str:
    """The image's rules as tables of another name that judge nothing."""
    begun, named = rf"table \1 {REFERENCE} {{\n    flags dormant;", rf"\1 {REFERENCE}"
    dormant = re.sub(r"^table (inet|netdev) bsfg \{$", begun, rules, flags=re.MULTILINE)
    return re.sub(r"^((?:delete )?table (?:inet|netdev)) bsfg$", named, dormant, flags=re.MULTILINE)


def tables(listing: str) -> dict[str, Blocks]:
    """The tables of a listing by family and name. :raises ValueError: it has another form."""
    found: dict[str, Blocks] = {}
    table: dict[str, str] = {}
    block = ""
    for line in listing.splitlines():
        if header := re.fullmatch(r"table (\w+ \S+) \{(?: #.*)?", line):
            table = {"": ""}
            found[header[1]] = table
        elif line in ("}", "") or line.startswith("#"):
            continue
        elif line == "\t}":
            block = ""
        elif block:
            table[block] += line.strip() + "\n"
        elif re.match(r"\t\w.* \{$", line):
            block = line.strip()[:-2]
            table[block] = ""
        elif line.startswith("\t"):
            table[""] += line.strip() + "\n"
        else:
            raise ValueError(f"a listing of another form: {line[:60]}")
    return found


def differences(
    expected: Mapping[str, Blocks], found: Mapping[str, Blocks], devices: Mapping[str, bool]
) -> Iterator[Seen]:
    """What is not as it should be. :param devices: those that have a judge, and whether they are there. Pure."""
    for table in found:
        dormant = table in map(_reference, OWN) and found[table][""] == "flags dormant\n"
        if table not in expected and not dormant and not is_wall(table, found[table]):
            yield Seen(Code.FIREWALL_CHANGED, f"there is a table {table}")
    for table, blocks in expected.items():
        there = found.get(table)
        if there is None:
            yield Seen(Code.FIREWALL_CHANGED, f"table {table} is gone")
            continue
        judged = devices if table == JUDGING_TABLE else {}
        for name, present in judged.items():
            chain = there.get(f"chain {name}")
            if chain is None and present:
                yield Seen(Code.FIREWALL_ABSENT, f"nothing judges the frames of {name}")
            elif chain is not None and not judge_of(name).fullmatch(" ".join(chain.split())):
                yield Seen(Code.FIREWALL_CHANGED, f"table {table}: chain {name}")
        for block in sorted({*blocks, *there} - {f"chain {name}" for name in judged}):
            if blocks.get(block) != there.get(block):
                yield Seen(Code.FIREWALL_CHANGED, f"table {table}: {block or 'its flags'}")


def filled(script: str) -> Iterator[tuple[str, str]]:
    """The elements that a script puts into sets."""
    for name, listed in _ELEMENT.findall(script):
        yield from ((name, " ".join(each.split())) for each in listed.split(","))


def elements(listing: str) -> Iterator[str]:
    """The elements of one listed set, without what a timeout says."""
    _, begun, rest = listing.partition("elements = {")
    if begun:
        yield from (
            re.sub(r" (timeout|expires) .*", "", " ".join(each.split())) for each in rest.split("}")[0].split(",")
        )


def _awake(blocks: Blocks) -> Blocks:
    return {**blocks, "": blocks[""].replace("flags dormant\n", "")}


def _is_lease(message: NetlinkMessage) -> bool:
    """Whether it is about the one element that the watchdog itself changes each second."""
    if message.kind >> 8 != _SUBSYSTEM or message.kind & 0xFF not in _SET_ELEMENTS:
        return False
    found = attributes(message.body[_NFGEN:])
    if (text(found.get(1, b"")), text(found.get(2, b""))) != ("bsfg", LEASE):
        return False
    keys = (attributes(each).get(1, b"") for _, each in each_attribute(found.get(3, b"")))
    return all(text(attributes(key).get(1, b"")) == LEASED.strip('"') for key in keys)


def _process(message: NetlinkMessage) -> str:
    found = attributes(message.body[_NFGEN:])
    return f"{text(found.get(3, b'')) or '?'}, pid {int.from_bytes(found.get(2, b''))}"
