# SPDX-License-Identifier: Apache-2.0
"""From what was seen to what it means. Pure rules in tables: what is wrong, how the box is, what still works.

Theory of operation: every rule of :data:`FINDERS` looks at the box and names what it finds. What another finding
explains is dropped (:data:`EXPLAINS`), so that a pulled cable is told as a pulled cable. The first rule of
:data:`RULES` that holds names the overall state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from appliance.boundary.modes import Mode
from appliance.boundary.reasons import Reason
from appliance.console.codes import Ability, DocState, Overall, Rank, Sign
from appliance.console.documents import Told
from appliance.console.model import Box
from appliance.console.ranks import rank_of
from appliance.watchdog.suspicions import Code

GRACE_S: Final = 180.0
"""After switching on, silence is a start and no fault for so long."""
CLOCK_TOLERANCE_S: Final = 120.0
DISK_FILLS_AT: Final = 85
DISK_FULL_AT: Final = 97


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong, or worth knowing.

    :param code: a :class:`Reason`, a :class:`Sign`, or a code that a newer service told.
    :param sources: the documents that told it. :param count: how often it was told.
    :param since_unix_s: since when, where that is known.
    """

    code: str
    rank: Rank
    detail: str = ""
    sources: tuple[str, ...] = ()
    count: int = 1
    since_unix_s: float | None = None
    quarantines: bool = False
    """It is what put the box into quarantine: a suspicion, told in the words of the watchdog's table."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a box is. Every ability stands in exactly one of the three lists."""

    overall: Overall
    since_unix_s: float | None
    findings: tuple[Finding, ...]
    works: tuple[Ability, ...]
    stopped: tuple[Ability, ...]
    unknown: tuple[Ability, ...]


# -- what is wrong -----------------------------------------------------------------------------------------------------

Finder = Callable[[Box], Iterator[Finding]]

SILENT: Final = {Sign.AGENT_SILENT, Sign.KEEPER_SILENT, Sign.WATCHDOG_SILENT, Sign.SITE_SILENT}
_BEGINNING: Final = {Sign.AGENT_STARTS, Sign.LEASE_NOT_YET}
_PORTS_COME: Final = {
    *(Sign.UPLINK_ABSENT, Sign.UPLINK_NO_CABLE, Sign.UPLINK_NO_ADDRESS, Sign.UPLINK_NO_GATEWAY),
    *(Sign.PLANT_ABSENT, Sign.PLANT_NO_CABLE),
}
"""The kernel finds ports one by one; they get their names, are switched on, and have addresses a little later."""
NOT_ASKED: Final = "not asked yet"
"""What a keeper says of its TPM in its first moment (:mod:`appliance.keys.keeper.keeper`); it is no fault."""
KEEPER_STATES: Final[dict[str, Reason]] = {
    "latched": Reason.KEY_LATCHED,
    "not_enrolled": Reason.NOT_ENROLLED,
    "not_provisioned": Reason.NOT_ENROLLED,
    "time_unknown": Reason.TIME_UNKNOWN,
    "tpm_busy": Reason.TPM_BUSY,
    "tpm_absent": Reason.TPM_ABSENT,
    "tpm_refused": Reason.TPM_REFUSED,
    "tpm_fault": Reason.TPM_FAULT,
}
"""What a keeper's state means where its problem says no more."""


def _finding(code: str, detail: str = "", source: str = "", since: float | None = None) -> Finding:
    return Finding(code, rank_of(code), detail, (source,) if source else (), 1, since)


def _silent(box: Box) -> Iterator[Finding]:
    watched = (
        (box.node.document, Sign.AGENT_SILENT),
        (box.keeper.document, Sign.KEEPER_SILENT),
        (box.watchdog.document, Sign.WATCHDOG_SILENT),
        (box.site.document, Sign.SITE_SILENT),
    )
    for document, sign in watched:
        if document.state in {DocState.MISSING, DocState.STALE}:
            since = None if document.age_s is None else box.now_unix_s - document.age_s
            yield _finding(sign, "", document.name, since)


def _damaged(box: Box) -> Iterator[Finding]:
    for document in box.documents:
        if document.state is DocState.DAMAGED:
            yield _finding(Sign.DOCUMENT_DAMAGED, f"{document.name}.json: {document.fault}", document.name)
    if box.node.document.state is DocState.DAMAGED:
        yield _finding(Sign.AGENT_SILENT, "", box.node.document.name)


def _told(box: Box) -> Iterator[Finding]:
    for document in box.documents:
        if document.speaks:
            for told in document.told:
                if told.detail != NOT_ASKED:
                    yield _as_finding(told)
    if box.site.refused is not None:
        yield _as_finding(box.site.refused)


def _as_finding(told: Told) -> Finding:
    rank = rank_of(told.reason)
    if rank is Rank.STOPS_WORK and told.where.startswith(("push ", "pull ")):
        rank = Rank.CROSSING  # the other side's broker or buffer
    return Finding(told.reason, rank, told.detail, (told.source,) if told.source else ())


def _keeper(box: Box) -> Iterator[Finding]:
    keeper = box.keeper
    if not keeper.document.speaks:
        return
    told = keeper.document.told
    code = KEEPER_STATES.get(keeper.state)
    if code is not None and (not told or code is Reason.KEY_LATCHED):
        yield _finding(code, "", keeper.document.name)
    if keeper.kind and keeper.kind != "tpm":
        yield _finding(Sign.SOFTWARE_TPM, keeper.kind, keeper.document.name)


def _node(box: Box) -> Iterator[Finding]:
    node = box.node
    if not node.document.speaks:
        return
    if not node.ready:
        yield _finding(Sign.AGENT_STARTS, "", node.document.name)
    if node.keys == "software":
        yield _finding(Sign.SOFTWARE_TPM, node.keys, node.document.name)
    if node.mode == Mode.AUTONOMOUS and not box.site.air_gapped:
        yield _finding(Reason.LINK_DOWN, "", node.document.name, node.mode_since_unix_s)
    if node.boundary_unix_s is not None and node.written_unix_s is not None:
        off = int(node.written_unix_s - node.boundary_unix_s)
        if abs(off) > CLOCK_TOLERANCE_S:
            yield _finding(Sign.CLOCK_DIFFERS, f"{abs(off)} s {'ahead' if off > 0 else 'behind'}", node.document.name)


def _watchdog(box: Box) -> Iterator[Finding]:
    watchdog = box.watchdog
    if watchdog.state == "quarantined" and watchdog.document.state is not DocState.DAMAGED:
        name, since = (watchdog.document.name,), watchdog.since_unix_s
        if watchdog.code in set(Code):
            yield Finding(watchdog.code, Rank.LOCKED, watchdog.detail, name, 1, since, quarantines=True)
        else:
            yield _finding(Reason.KEY_LATCHED, "", watchdog.document.name, since)
    signs = {
        "closed": Sign.LEASE_CLOSED,
        "checking": Sign.LEASE_NOT_YET,
        "in_doubt": Sign.QUARANTINE_IN_DOUBT,
        "released": Sign.RELEASED_DARK,
    }
    if watchdog.document.speaks and watchdog.state in signs:
        yield _finding(signs[watchdog.state], "", watchdog.document.name, watchdog.since_unix_s)


def _site(box: Box) -> Iterator[Finding]:
    if box.site.document.speaks and box.site.state == "failed":
        yield _finding(Sign.SITE_FAILED, "", box.site.document.name)
    if (ends := box.site.trial_ends_unix_s) is not None and ends > box.now_unix_s:
        yield _finding(Sign.SITE_ON_TRIAL, f"{int(ends - box.now_unix_s) // 60 + 1} min left", box.site.document.name)


def _enrolment(box: Box) -> Iterator[Finding]:
    if not outside(box):
        return
    enrolment, signs = box.enrolment, {"waiting": Sign.ENROLMENT_WAITS, "calling": Sign.ENROLMENT_CALLS}
    if box.site.air_gapped:
        yield _finding(Sign.ENROLMENT_BY_FILE)
    elif enrolment.document.speaks and enrolment.state in signs:
        yield _finding(signs[enrolment.state], "", enrolment.document.name, enrolment.since_unix_s)


def _machine(box: Box) -> Iterator[Finding]:
    if box.machine.secure_boot in {"off", "setup"}:
        yield _finding(Sign.SECURE_BOOT_OFF)
    if box.disk is not None and box.disk.used >= DISK_FILLS_AT:
        full = box.disk.used >= DISK_FULL_AT
        yield _finding(Sign.DISK_FULL if full else Sign.DISK_FILLS, f"{box.disk.used} %")


def _ports(box: Box) -> Iterator[Finding]:
    """Ports that the site configuration names: each is there, and only once."""
    physical = [each for each in box.interfaces if each.physical]
    if box.site.state != "accepted" or not box.interfaces:  # whoever sees none at all, sees nothing
        return
    there = ", ".join(" ".join(filter(None, (each.name, each.mac, each.driver))) for each in physical) or "none"
    absent = {"uplink": Sign.UPLINK_ABSENT, "plant": Sign.PLANT_ABSENT}
    for port in box.site.ports:
        if not any(each.name == port.device for each in physical) and port.role in absent:
            yield _finding(absent[port.role], f"no port has {port.by} {port.value}; there are: {there}")
        several = [each.name for each in physical if port.by == "driver" and each.driver == port.value]
        if len(several) > 1:
            told = f"driver {port.value} is of several ports: {', '.join(several)}; name one by its mac"
            yield _finding(Reason.BAD_SITE, told, box.site.document.name)


def _network(box: Box) -> Iterator[Finding]:
    plant, uplink = box.role("plant"), box.role("uplink")
    if plant is not None and not plant.carrier:
        yield _finding(Sign.PLANT_NO_CABLE, plant.name)
    if box.site.air_gapped or box.site.state != "accepted":
        return
    if uplink is None:
        if box.interfaces:  # whoever sees none at all, sees nothing
            yield _finding(Sign.UPLINK_ABSENT)
    elif not uplink.carrier:
        yield _finding(Sign.UPLINK_NO_CABLE, uplink.name)
    elif not uplink.addresses:
        yield _finding(Sign.UPLINK_NO_ADDRESS, uplink.name)
    elif not uplink.gateways and box.node.mode == Mode.AUTONOMOUS:
        yield _finding(Sign.UPLINK_NO_GATEWAY, uplink.name)


STICK_SHOWN_S: Final = 600.0
"""What came of a stick is of interest while somebody stands there."""
STICK_SIGNS: Final[dict[str, Sign]] = {
    "ignored": Sign.STICK_IGNORED,
    "reading": Sign.STICK_READING,
    "read": Sign.STICK_READ,
    "restarting": Sign.STICK_RESTARTING,
    "writing": Sign.STICK_WRITING,
    "written": Sign.STICK_WRITTEN,
    "unwritten": Sign.STICK_UNWRITTEN,
    "failed": Sign.STICK_FAILED,
}


def _stick(box: Box) -> Iterator[Finding]:
    stick = box.stick
    age_s = stick.document.age_s
    if stick.document.speaks and age_s is not None and age_s <= STICK_SHOWN_S and stick.state in STICK_SIGNS:
        yield _finding(STICK_SIGNS[stick.state], stick.detail, stick.document.name)


FINDERS: Final[tuple[Finder, ...]] = (
    _told, _silent, _damaged, _keeper, _node, _watchdog, _site, _enrolment, _machine, _ports, _network,
    _stick,
)  # fmt: skip
"""Everything the page looks for. Where two find the same, what services told comes first."""

_UNREACHABLE: Final = frozenset(
    {Reason.LINK_DOWN, Reason.PROXY_REFUSED, Reason.PEER_TIMEOUT, Reason.TIME_UNKNOWN, Sign.ENROLMENT_CALLS}
)
_UNPROVEN: Final = frozenset({Reason.NO_SESSION, Reason.NOT_ENROLLED, Reason.TIME_UNKNOWN, Reason.LINK_DOWN})
_SHUT: Final = frozenset({Sign.LEASE_CLOSED, Sign.LEASE_NOT_YET, Reason.NOT_READY})
_OF_THE_UPLINK: Final = frozenset({Sign.LEASE_CLOSED, Sign.LEASE_NOT_YET, Reason.FIREWALL_FAULT})
"""What cannot be otherwise on a box that has no uplink: the watchdog opens none."""

EXPLAINS: Final[dict[str, frozenset[str]]] = {
    Reason.KEY_LATCHED: _UNREACHABLE
    | {Reason.NO_SESSION, Reason.BOX_QUARANTINED, Reason.ATTESTATION_STALE, Sign.LEASE_CLOSED, Sign.LEASE_NOT_YET},
    Sign.RELEASED_DARK: _UNREACHABLE | _SHUT | {Reason.BOX_QUARANTINED, Reason.ATTESTATION_STALE, Reason.NO_SESSION},
    Sign.QUARANTINE_IN_DOUBT: _UNREACHABLE | _SHUT,
    Sign.AGENT_SILENT: _SHUT | {Sign.AGENT_STARTS},
    Sign.KEEPER_SILENT: _SHUT | {Reason.KEEPER_UNAVAILABLE, Reason.NO_SESSION},
    Sign.WATCHDOG_SILENT: _UNREACHABLE,
    Sign.LEASE_CLOSED: _UNREACHABLE | {Reason.NOT_READY},
    Sign.LEASE_NOT_YET: _UNREACHABLE | {Reason.NOT_READY},
    Sign.UPLINK_ABSENT: _UNREACHABLE | _OF_THE_UPLINK,
    Reason.FIREWALL_FAULT: _UNREACHABLE | _SHUT,
    Sign.UPLINK_NO_CABLE: _UNREACHABLE,
    Sign.UPLINK_NO_ADDRESS: _UNREACHABLE,
    Sign.ENROLMENT_WAITS: _UNPROVEN,
    Sign.ENROLMENT_CALLS: _UNPROVEN,
    Sign.ENROLMENT_BY_FILE: _UNPROVEN,
    Sign.SECURE_BOOT_OFF: frozenset({Reason.TPM_REFUSED}),
    Reason.NOT_ENROLLED: frozenset({Reason.NO_SESSION, Reason.TIME_UNKNOWN, Reason.LINK_DOWN}),
    Reason.LINK_DOWN: frozenset({Reason.TIME_UNKNOWN}),
    Reason.PEER_TIMEOUT: frozenset({Reason.LINK_DOWN}),
    Reason.PROXY_REFUSED: frozenset({Reason.LINK_DOWN, Reason.TIME_UNKNOWN}),
    Reason.BROKER_UNAVAILABLE: _SHUT | {Sign.AGENT_STARTS},
    Reason.BROKER_NOT_DURABLE: _SHUT | {Sign.AGENT_STARTS},
    Reason.TPM_ABSENT: _UNPROVEN | _SHUT,
    Reason.TPM_REFUSED: _UNPROVEN | _SHUT,
    Reason.TPM_FAULT: _UNPROVEN | _SHUT,
}
"""What need not be told beside a finding, because it follows from it."""


def outside(box: Box) -> bool:
    """Whether the hub has not let this box in, by its keeper's word."""
    return box.keeper.document.speaks and box.keeper.state in {"not_enrolled", "not_provisioned"}


def find(box: Box) -> tuple[Finding, ...]:
    """All that is wrong, each thing once, what matters most first."""
    merged: dict[str, Finding] = {}
    for finder in FINDERS:
        for each in finder(box):
            merged[each.code] = _merge(merged[each.code], each) if each.code in merged else each
    explained = {hidden for code in merged for hidden in EXPLAINS.get(code, ())}
    if any(each.quarantines for each in merged.values()):
        explained |= EXPLAINS[Reason.KEY_LATCHED] | {Reason.KEY_LATCHED}
        explained -= {code for code, each in merged.items() if each.quarantines}
    if box.site.air_gapped:
        explained |= _OF_THE_UPLINK
    if any(box.enrolment.document.name in each.sources for each in merged.values()):  # the hub's answer says it all
        explained |= _UNPROVEN - {each.code for each in merged.values() if box.enrolment.document.name in each.sources}
    return tuple(sorted((f for code, f in merged.items() if code not in explained), key=lambda f: f.rank))


def _merge(one: Finding, other: Finding) -> Finding:
    if other.quarantines:
        one, other = other, one
    moments = [moment for moment in (one.since_unix_s, other.since_unix_s) if moment is not None]
    return replace(
        one,
        rank=min(one.rank, other.rank),
        detail=one.detail or other.detail,
        sources=tuple(dict.fromkeys((*one.sources, *other.sources))),
        count=one.count + (other.detail != "" and one.detail != "" and not one.quarantines),
        since_unix_s=min(moments, default=None),
    )


# -- how the box is ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """A box with what was found, for the rules."""

    box: Box
    findings: tuple[Finding, ...]

    def has(self, *codes: str) -> bool:
        """Whether one of the codes was found."""
        return any(finding.code in codes for finding in self.findings)

    def ranks(self, rank: Rank) -> bool:
        """Whether something of this rank was found."""
        return any(finding.rank is rank for finding in self.findings)


RULES: Final[tuple[tuple[Overall, Callable[[Case], bool]], ...]] = (
    (Overall.RELEASED, lambda case: case.has(Sign.RELEASED_DARK)),
    (Overall.QUARANTINED, lambda case: case.ranks(Rank.LOCKED) or case.box.node.mode == Mode.QUARANTINED),
    (Overall.NOT_CONFIGURED, lambda case: case.box.site.state == "missing"),
    (Overall.STARTING, lambda case: case.box.uptime_s < GRACE_S and case.has(*SILENT, *_BEGINNING)),
    (Overall.STOPPED, lambda case: case.ranks(Rank.STOPS_WORK)),
    (Overall.REFUSED, lambda case: outside(case.box) and case.box.enrolment.state == "refused"),
    (Overall.TROUBLE, lambda case: case.ranks(Rank.ALARM)),
    (Overall.WAITING, lambda case: case.has(Sign.ENROLMENT_WAITS)),
    (Overall.NOT_ENROLLED, lambda case: outside(case.box)),
    (Overall.AIR_GAPPED, lambda case: case.box.site.air_gapped),
    (Overall.CATCHING_UP, lambda case: case.box.node.mode == Mode.RECONCILING),
    (Overall.WORKING, lambda case: case.box.node.mode == Mode.NORMAL),
    (Overall.ON_ITS_OWN, lambda case: True),
)
"""The first that holds. Whoever is in none of the others cannot reach the hub."""

SINCE: Final[dict[Overall, Callable[[Case], float | None]]] = {
    Overall.STARTING: lambda case: case.box.now_unix_s - case.box.uptime_s,
    Overall.ON_ITS_OWN: lambda case: case.box.node.mode_since_unix_s,
    Overall.CATCHING_UP: lambda case: case.box.node.mode_since_unix_s,
    Overall.WORKING: lambda case: case.box.node.mode_since_unix_s,
}
"""Where the moment comes from; for the others from their first finding."""


def judge(box: Box) -> Judgement:
    """How a box is."""
    case = Case(box, find(box))
    overall = next(state for state, holds in RULES if holds(case))
    if overall in {Overall.NOT_CONFIGURED, Overall.STARTING}:  # silence is what is to be expected
        case = replace(
            case, findings=tuple(f for f in case.findings if f.code not in SILENT | _BEGINNING | _PORTS_COME)
        )
    first = case.findings[0].since_unix_s if case.findings else None
    since = SINCE[overall](case) if overall in SINCE else first
    verdicts = {ability: able(case) for ability, able in ABLE.items()}
    return Judgement(
        overall,
        since,
        case.findings,
        *(tuple(ability for ability, verdict in verdicts.items() if verdict is each) for each in (True, False, None)),
    )


# -- what still works --------------------------------------------------------------------------------------------------


def _produces(case: Case) -> bool | None:
    node = case.box.node
    if not node.document.speaks:
        return False
    return node.ready and node.broker and not case.ranks(Rank.STOPS_WORK)


def _consumes(case: Case) -> bool | None:
    node = case.box.node
    return node.broker if node.document.speaks else None


def _crosses(case: Case) -> bool | None:
    node = case.box.node
    if not node.document.speaks or node.mode not in {Mode.NORMAL, Mode.RECONCILING}:
        return False
    return not case.ranks(Rank.LOCKED)


ABLE: Final[dict[Ability, Callable[[Case], bool | None]]] = {
    Ability.PRODUCE: _produces,
    Ability.CONSUME: _consumes,
    Ability.SEND: _crosses,
    Ability.RECEIVE: _crosses,
}
"""Whether an ability works; ``None``: nobody says."""
