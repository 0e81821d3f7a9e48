# SPDX-License-Identifier: Apache-2.0
"""The page: 24 lines of at most 79 ASCII characters, whatever the box says. Pure.

The last column stays empty, because writing into it scrolls some terminals.
"""

from __future__ import annotations

import textwrap
import time
import unicodedata
from collections.abc import Iterator
from typing import Final

from appliance.console.codes import Ability, DocState, Overall, Rank, Sign
from appliance.console.judgement import Finding, Judgement
from appliance.console.model import Box
from appliance.console.network import Interface
from appliance.console.steps import is_dark, next_steps
from appliance.console.texts import Texts
from appliance.watchdog.suspicions import USUAL_STEP

WIDTH: Final = 79
HEIGHT: Final = 24
CLOCK_LINE: Final = 0
"""The one line that changes each second."""
_LABEL: Final = 10
_NAMES_TPM: Final = {Overall.WAITING, Overall.NOT_ENROLLED, Overall.REFUSED}
"""States in which somebody needs the TPM's fingerprint."""
_DIGITS: Final = 16
"""How much of a digest people compare by voice; a signature stands over all of it."""
_ELSEWHERE: Final = str.maketrans({"æ": "ae", "ø": "o", "å": "a", "Æ": "Ae", "Ø": "O", "Å": "A", "ß": "ss", "—": "-"})


def ascii_text(text: str) -> str:
    """A text that any terminal can show, and none obeys."""
    plain = unicodedata.normalize("NFKD", text.translate(_ELSEWHERE))
    shown = (c for c in plain if not unicodedata.combining(c))
    return "".join(c if " " <= c <= "~" else "?" for c in shown)


def render(box: Box, judgement: Judgement, texts: Texts, *, whole: bool = False) -> tuple[str, ...]:
    """The page: exactly :data:`HEIGHT` lines, none longer than :data:`WIDTH`, in ASCII.

    :param whole: as many lines as it takes to tell everything.
    """
    foot = [_fit(line) for line in _foot(box, texts)]
    state = _state(box, judgement, texts, whole=whole)
    head = [_fit(line) for line in (*_title(box, texts), *state, *_facts(box, judgement, texts))]
    head += ["", *_abilities(judgement, texts)]
    room = 1000 if whole else HEIGHT - len(head) - len(foot) - 2
    middle = [_fit(line) for line in _wrong(box, judgement, texts, room)]
    body = [*head, "", *middle]
    lines = [*body, *[""] * (HEIGHT - len(body) - len(foot) - 1), "-" * WIDTH, *foot]  # a negative count adds none
    return tuple(line.rstrip() for line in lines)


def _fit(text: str) -> str:
    text = ascii_text(text)
    return text if len(text) <= WIDTH else text[: WIDTH - 3] + "..."


def _row(label: str, text: str) -> str:
    return f" {label:<{_LABEL}}{text}"


# -- parts -------------------------------------------------------------------------------------------------------------


def _title(box: Box, texts: Texts) -> Iterator[str]:
    name, clock = texts.labels["title"], f"{moment(box.now_unix_s)} UTC"
    yield f" {name}{clock:>{WIDTH - len(name) - 2}}"
    yield "=" * WIDTH


def _state(box: Box, judgement: Judgement, texts: Texts, *, whole: bool) -> Iterator[str]:
    """Two lines for the state; what somebody must read out, where they must."""
    what = _what(judgement.findings[0], texts, detail=False) if judgement.findings else texts.labels["unknown"]
    line = texts.states[judgement.overall].headline.format(what=what)
    if since := _since(judgement.since_unix_s, box.now_unix_s, texts):
        line = f"{line}, {since}"
    yield from _wrapped(f" {line}", 2)
    if judgement.overall in _NAMES_TPM and box.enrolment.fingerprint:
        yield f" {texts.labels['fingerprint']}"
        yield f" {box.enrolment.fingerprint}"
    if judgement.overall is Overall.QUARANTINED and box.watchdog.state == "quarantined":
        yield from _request(box, texts, whole=whole)


def _request(box: Box, texts: Texts, *, whole: bool) -> Iterator[str]:
    """What two operators sign over. :param whole: digest and request in full, to be copied."""
    counter, evidence = box.watchdog.counter, box.watchdog.evidence
    if not box.watchdog.asks:
        yield f" {texts.labels['evidence_waits']}"
        return
    short = " ".join(textwrap.wrap(evidence[:_DIGITS], 4)) + "..."
    for_release = texts.labels["for_release"].format(counter=counter, evidence="" if whole else short)
    yield f" {for_release.rstrip()}"
    if whole:
        yield f" {evidence}"
        for place, part in enumerate(textwrap.wrap(box.watchdog.request, WIDTH - _LABEL - 1)):
            yield _row(texts.labels["request"] if place == 0 else "", part)


def _facts(box: Box, judgement: Judgement, texts: Texts) -> Iterator[str]:
    labels = texts.labels
    version = labels["site"].format(version=box.site.version) if box.site.version is not None else ""
    zone = ", ".join(part for part in (box.zone or labels["unknown"], version) if part)
    yield ""
    yield _row(labels["zone"], f"{zone}, {labels['uptime'].format(span=span(box.uptime_s))}")
    uplink, plant, configured = box.role("uplink"), box.role("plant"), box.site.state == "accepted"
    if is_dark(box, judgement):  # what its port looks like would mislead
        yield _row(labels["uplink"], labels[f"dark_{judgement.overall}"])
    else:
        if box.node.document.speaks and not box.site.air_gapped:
            yield _row(labels["hub"], _hub(box, texts))
        if uplink is not None or (configured and not box.site.air_gapped):
            yield _row(labels["uplink"], _interface(box, uplink, texts))
    if plant is not None:
        yield _row(labels["plant"], _interface(box, plant, texts))
    if uplink is None and plant is None:  # not configured yet: which ports there are
        for each in [one for one in box.interfaces if one.physical][:2]:
            yield _row(each.name[:9], _interface(box, each, texts))
    counts = {"out": box.node.to_send, "inward": box.node.to_receive}
    if box.node.document.speaks and box.disk is None:
        yield _row(labels["waiting"], labels["waiting_only"].format(**counts))
    elif box.disk is not None:
        disk = {"used": box.disk.used, "size": size(box.disk.size)}
        if box.node.document.speaks:
            yield _row(labels["waiting"], labels["waiting_counts"].format(**counts, **disk))
        else:
            yield _row(labels["disk"], labels["disk_used"].format(**disk))


def _hub(box: Box, texts: Texts) -> str:
    labels, last = texts.labels, box.node.last_exchange_unix_s
    if last is None:
        told = labels["hub_never"]
    else:
        told = labels["hub_last"].format(moment=moment(last, box.now_unix_s), span=span(box.now_unix_s - last))
    return ", ".join(part for part in (box.site.hub, told) if part)


def _interface(box: Box, interface: Interface | None, texts: Texts) -> str:
    labels = texts.labels
    if interface is None:
        return labels["absent"]
    link = {True: labels["link_up"], False: labels["link_down"], None: labels["link_off"]}[interface.carrier]
    if not box.site.show_addresses:
        return f"{link}, {labels['hidden']}"
    addresses = list(interface.addresses[:2])
    if addresses and interface.gateways:
        addresses[0] += f" {labels['via']} {interface.gateways[0]}"
    return ", ".join((link, *(addresses or (labels["no_address"], interface.mac))))


def _abilities(judgement: Judgement, texts: Texts) -> Iterator[str]:
    rows: tuple[tuple[str, tuple[Ability, ...]], ...] = (
        ("works", judgement.works),
        ("stopped", judgement.stopped),
        ("not_known", judgement.unknown),
    )
    for label, abilities in rows:
        told = ", ".join(texts.abilities[each] for each in abilities)
        if told or label == "works":
            yield _fit(_row(texts.labels[label], told or texts.labels["nothing"]))


def _wrong(box: Box, judgement: Judgement, texts: Texts, room: int) -> Iterator[str]:
    """As many findings as there is room for, and what to do about each."""
    blocks = list(_blocks(box, judgement, texts))
    shown: list[str] = []
    for place, block in enumerate(blocks):
        left = len(blocks) - place - 1
        if len(shown) + len(block) + (left > 0) > room:
            more = _row("", texts.labels["more"].format(count=left + 1))
            yield from (shown or block)[: room - 1]
            yield more
            return
        shown += block
    yield from shown


def _blocks(box: Box, judgement: Judgement, texts: Texts) -> Iterator[list[str]]:
    """What is to be told, what matters most first."""
    steps = [line for step in next_steps(box, judgement, texts) for line in _wrapped(step, 2, WIDTH - _LABEL - 1)]
    own = [_row(texts.labels["do"] if place == 0 else "", line) for place, line in enumerate(steps)]
    sticks = [each for each in judgement.findings if each.code in _STICK]
    findings = [each for each in judgement.findings if each not in sticks]
    if findings and findings[0].quarantines:  # its steps are those of every quarantine, and a stick is one of them
        yield _labelled(texts.labels["wrong"], _told(findings[0], texts), 2)
        yield from (_block(each, texts, "") for each in sticks)
        yield own
        if (do := texts.finding(findings[0].code, quarantines=True).do) != USUAL_STEP:
            yield _steps(do, texts)
        findings = findings[1:]
    else:
        yield from (_block(each, texts, "") for each in sticks)
        if not judgement.findings and judgement.overall in _FINE:
            yield [_row("", texts.labels["all_well"])]
        if not judgement.findings or judgement.overall in _BY_STATE:
            yield own
    said = ""
    for finding in findings:
        yield _block(finding, texts, said)
        said = texts.finding(finding.code, quarantines=finding.quarantines).do


_FINE: Final = {Overall.WORKING, Overall.AIR_GAPPED, Overall.CATCHING_UP}
_BY_STATE: Final = {Overall.STARTING, Overall.NOT_CONFIGURED}
"""States whose own next step comes before those of the findings."""
_STICK: Final = {each for each in Sign if each.startswith("stick_")}
"""They come first: whoever has put one in stands there, and waits for the word to take it out."""


def _block(finding: Finding, texts: Texts, said: str) -> list[str]:
    """A finding and its next step, unless that was just said."""
    do = texts.finding(finding.code, quarantines=finding.quarantines).do
    label = texts.labels["note" if finding.rank is Rank.NOTE else "wrong"]
    return [*_labelled(label, _told(finding, texts), 2), *(_steps(do, texts) if do != said else ())]


def _told(finding: Finding, texts: Texts) -> str:
    return f"{finding.code}: {_what(finding, texts, detail=True)}"


def _steps(do: str, texts: Texts) -> list[str]:
    return _labelled(texts.labels["do"], do, 2)


def _what(finding: Finding, texts: Texts, *, detail: bool) -> str:
    what = texts.finding(finding.code, quarantines=finding.quarantines).what
    if detail and finding.detail:
        what = f"{what} ({finding.detail})"
    if detail and finding.count > 1:
        what = f"{what}, {texts.labels['times'].format(count=finding.count)}"
    return what


def _labelled(label: str, text: str, most: int) -> list[str]:
    lines = list(_wrapped(text, most, WIDTH - _LABEL - 1))
    return [_row(label if place == 0 else "", line) for place, line in enumerate(lines)]


def _wrapped(text: str, most: int, width: int = WIDTH) -> Iterator[str]:
    """At most so many lines; what does not fit ends in dots."""
    indent, text = " " if text.startswith(" ") else "", ascii_text(text).strip()
    lines = textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=indent) or [""]
    for place, line in enumerate(lines[:most]):
        cut = place == most - 1 and len(lines) > most
        yield (line[: width - 3] + "...") if cut else line


def _foot(box: Box, texts: Texts) -> Iterator[str]:
    labels, image = texts.labels, box.image
    version = labels["version"].format(version=image.version or box.node.version or "?", profile=image.profile)
    told = [version.strip()]
    if image.tries is not None:
        told.append(labels["trial"].format(tries=image.tries))
    told.append(labels[f"secure_boot_{box.machine.secure_boot}"])
    if image.entry:
        told.append(labels["entry"].format(entry=image.entry))
    yield " " + ", ".join(told)
    names = [labels["serial"].format(serial=box.machine.serial)] if box.machine.serial else []
    if box.machine.machine_id:
        names.append(labels["machine"].format(machine=box.machine.machine_id))
    unknown = [
        labels["unknown_document"].format(name=each.name, state=each.values.text("state", 20) or each.state)
        for each in box.others
        if each.state is not DocState.MISSING
    ]
    yield " " + ", ".join((*names, *unknown))


# -- figures for people ------------------------------------------------------------------------------------------------


def moment(unix_s: float, now_unix_s: float | None = None) -> str:
    """A moment in UTC: with its date, unless it is of the day of ``now``."""
    try:
        told = time.gmtime(unix_s)
        today = now_unix_s is not None and time.gmtime(now_unix_s)[:3] == told[:3]
        return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M" + (":%S" if now_unix_s is None else ""), told)
    except (OverflowError, OSError, ValueError):
        return "?"


def span(seconds: float) -> str:
    """How long, in one or two units."""
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def size(count: int) -> str:
    """Bytes, in GB."""
    return f"{count / 1e9:.1f} GB"


def _since(since: float | None, now: float, texts: Texts) -> str:
    if since is None or since > now + 1:
        return ""
    return texts.labels["since"].format(moment=moment(since, now), span=span(now - since))
