# SPDX-License-Identifier: Apache-2.0
"""The status model of a box: everything the page and ``bsfg box status`` know, looked up and never guessed.

Looking never fails. What is not there is empty or ``None``; :mod:`appliance.console.judgement` says what that means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from appliance.console.codes import DocState
from appliance.console.documents import Clock, Document, Reader, SystemClock, Told, Values
from appliance.console.network import Interface, interfaces
from appliance.console.system import Disk, Image, Machine, blessed, disk, image, machine
from appliance.keys.code_parts import WHOLE

STATUS_DIR: Final = "run/bsfg/status"
NODES: Final = ("agent", "hub")
"""The document of the node, whichever this box runs."""
UNCHANGING_S: Final = 60.0
"""How often what hardly changes is looked up again."""


@dataclass(frozen=True, slots=True)
class Site:
    """The site configuration in force.

    :param refused: a newer one that was not taken, and why.
    :param ports: what it names.
    :param trial_ends_unix_s: until when a new one must have brought contact; ``None``: it is on no trial.
    """

    document: Document
    state: str = ""
    zone: str = ""
    version: int | None = None
    hub: str = ""
    air_gapped: bool = False
    show_addresses: bool = True
    refused: Told | None = None
    trial_ends_unix_s: float | None = None
    ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedPort:
    """A network port that the site configuration names.

    :param role: ``uplink`` or ``plant``. :param device: the name that it has when it is there.
    :param by: ``mac``, ``name`` or ``driver``. :param value: which one.
    """

    role: str
    device: str
    by: str
    value: str


@dataclass(frozen=True, slots=True)
class Keeper:
    """The TPM and its key."""

    document: Document
    state: str = ""
    kind: str = ""
    zone: str = ""
    counter: int | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """The agent (or the hub).

    :param to_send: facts that wait to cross, from here; :param to_receive: from the hub, as far as is known.
    :param last_exchange_unix_s: the newest exchange over the boundary; ``None``: none since the node started.
    :param boundary_unix_s: boundary time when the document was written; :param written_unix_s: the wall clock then.
    """

    document: Document
    name: str = ""
    zone: str = ""
    version: str = ""
    ready: bool = False
    mode: str = ""
    mode_since_unix_s: float | None = None
    keys: str = ""
    boundary: str = ""
    broker: bool = False
    to_send: int = 0
    to_receive: int = 0
    last_exchange_unix_s: float | None = None
    boundary_unix_s: float | None = None
    written_unix_s: float | None = None


@dataclass(frozen=True, slots=True)
class Watchdog:
    """Whether the box may speak.

    :param state: ``checking``, ``open``, ``closed``, ``quarantined``, ``in_doubt``, ``released``.
    :param code: of the suspicion that put it into quarantine. :param detail: what exactly.
    :param evidence: the digest (hex) that operators sign over; empty: not complete yet. :param counter: of the TPM.
    :param request: for release, as a text (:mod:`appliance.keys.code_parts`); empty: none is made yet, or it is none.
    """

    document: Document
    state: str = ""
    since_unix_s: float | None = None
    code: str = ""
    detail: str = ""
    evidence: str = ""
    counter: int | None = None
    request: str = ""

    @property
    def asks(self) -> bool:
        """Whether operators can release it: it is in quarantine, and its evidence is complete."""
        return self.state == "quarantined" and bool(self.evidence)


@dataclass(frozen=True, slots=True)
class Enrolment:
    """How the box stands with the hub until it is let in."""

    document: Document
    state: str = ""
    fingerprint: str = ""
    since_unix_s: float | None = None


@dataclass(frozen=True, slots=True)
class Stick:
    """The USB stick that was put in last.

    :param state: ``ignored``, ``reading``, ``read``, ``restarting``, ``failed``. :param detail: what came of its files.
    """

    document: Document
    state: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Box:
    """A box at one moment.

    :param now_unix_s: the wall clock. :param others: documents of services that this program does not know.
    """

    now_unix_s: float
    uptime_s: float
    site: Site
    keeper: Keeper
    node: Node
    watchdog: Watchdog
    enrolment: Enrolment
    stick: Stick = field(default_factory=lambda: Stick(Document("stick")))
    others: tuple[Document, ...] = ()
    image: Image = field(default_factory=Image)
    machine: Machine = field(default_factory=Machine)
    disk: Disk | None = None
    interfaces: tuple[Interface, ...] = ()

    @property
    def zone(self) -> str:
        """The zone's name, by whoever knows it."""
        return self.site.zone or self.node.zone or self.keeper.zone

    @property
    def documents(self) -> tuple[Document, ...]:
        """All of them, known and unknown."""
        known = (self.site, self.keeper, self.node, self.watchdog, self.enrolment, self.stick)
        return (*(part.document for part in known), *self.others)

    def role(self, role: str) -> Interface | None:
        """The interface of a role."""
        return next((each for each in self.interfaces if each.role == role), None)


def watchdog_view(document: Document) -> Watchdog:
    """The watchdog's document."""
    values, stands = document.values, document.values.part("quarantine")
    request = stands.text("request", 600)
    return Watchdog(
        document,
        values.text("state", 30),
        _seconds(values, "since_unix_ms"),
        stands.text("code", 40),
        stands.text("detail", 300),
        stands.text("evidence", 64),
        stands.number("counter"),
        request if WHOLE.fullmatch(request) else "",
    )


def site_view(document: Document) -> Site:
    """The document of the service that takes the site configuration."""
    values, refused = document.values, document.values.part("refused")
    told = None
    if reason := refused.text("reason", 40):
        told = Told(reason, refused.text("detail"), "", document.name)
    return Site(
        document,
        values.text("state", 30),
        values.text("zone", 32),
        values.number("version"),
        values.text("hub", 80),
        values.truth("air_gapped") or False,
        values.truth("show_addresses") is not False,
        told,
        _seconds(values, "trial_ends_unix_ms"),
        tuple(
            NamedPort(each.text("role", 10), each.text("device", 15), each.text("by", 10), each.text("value", 40))
            for each in values.items("ports")
        ),
    )


def keeper_view(document: Document) -> Keeper:
    """The keeper's document."""
    values = document.values
    return Keeper(
        document, values.text("state", 30), values.text("kind", 20), values.text("zone", 32), values.number("counter")
    )


def enrolment_view(document: Document) -> Enrolment:
    """The document of the service that asks the hub to let the box in."""
    values = document.values
    since = _seconds(values, "since_unix_ms")
    return Enrolment(document, values.text("state", 30), values.text("fingerprint", 64), since)


def stick_view(document: Document) -> Stick:
    """The document of the program that reads USB sticks."""
    return Stick(document, document.values.text("state", 30), document.values.text("detail"))


def node_view(document: Document) -> Node:
    """The node's document, as :class:`appliance.node.status.StatusDocument` writes it."""
    values, boundary = document.values, document.values.part("boundary")
    crossings = list(values.items("crossings"))
    waiting = {"push": 0, "pull": 0}
    for each in crossings:
        if (direction := each.text("direction", 8)) in waiting:
            waiting[direction] += max(0, each.number("lag") or 0)
    exchanges = [moment for each in crossings if (moment := _seconds(each, "last_exchange_unix_ms"))]
    exchanges += [moment for each in values.items("peers") if (moment := _seconds(each, "last_call_unix_ms"))]
    return Node(
        document,
        name=values.text("name", 20),
        zone=values.text("zone", 32),
        version=values.text("version", 40),
        ready=values.truth("ready") or False,
        mode=values.text("mode", 20),
        mode_since_unix_s=_seconds(values, "mode_since_unix_ms"),
        keys=values.text("keys", 20),
        boundary=boundary.text("state", 30),
        broker=values.part("broker").truth("connected") or False,
        to_send=waiting["push"],
        to_receive=waiting["pull"],
        last_exchange_unix_s=max(exchanges, default=None),
        boundary_unix_s=_seconds(boundary, "unix_ms"),
        written_unix_s=_seconds(values, "updated_at_unix_ms"),
    )


def assemble(documents: Mapping[str, Document], *, now_unix_s: float, uptime_s: float) -> Box:
    """A box as its documents tell it, without what only the machine can say."""

    def one(name: str) -> Document:
        return documents.get(name, Document(name))

    node = next((name for name in NODES if documents.get(name, Document(name)).state is not DocState.MISSING), NODES[0])
    known = {"site", "keeper", "watchdog", "enrol", "stick", "carry", node}
    return Box(
        now_unix_s,
        uptime_s,
        site_view(one("site")),
        keeper_view(one("keeper")),
        node_view(one(node)),
        watchdog_view(one("watchdog")),
        enrolment_view(one("enrol")),
        stick_view(one("stick")),
        tuple(document for name, document in sorted(documents.items()) if name not in known),
    )


class Looker:
    """Looks at a box again and again; remembers what tells a live document from a dead one."""

    def __init__(self, root: Path = Path("/"), *, clock: Clock | None = None, credentials: Path | None = None) -> None:
        self._root, self._clock, self._credentials = root, clock or SystemClock(), credentials
        self._reader = Reader(root / STATUS_DIR, self._clock)
        self._unchanging: tuple[Image, Machine] | None = None
        self._looked_at = -float("inf")

    def look(self) -> Box:
        """The box now."""
        uptime_s = self._clock.uptime_s()
        if self._unchanging is None or uptime_s - self._looked_at >= UNCHANGING_S:
            self._unchanging = image(self._root), machine(self._root, self._credentials)
            self._looked_at = uptime_s
        known_image, known_machine = self._unchanging
        if blessed(self._root):  # it is, some seconds after everything is started
            known_image = replace(known_image, tries=None)
        return replace(
            assemble(self._reader.read(), now_unix_s=self._clock.unix_s(), uptime_s=uptime_s),
            image=known_image,
            machine=known_machine,
            disk=disk(self._root),
            interfaces=interfaces(self._root),
        )


def _seconds(values: Values, name: str) -> float | None:
    """A moment in milliseconds, as Unix seconds; ``None``: not said, never, or beyond the year 9999."""
    number = values.number(name)
    return number / 1000 if number is not None and 0 < number < 253_402_300_800_000 else None
