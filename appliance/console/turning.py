# SPDX-License-Identifier: Apache-2.0
"""The request for release as QR codes: beside the page where the terminal has the room, else in turn with it. Pure.

A text console of 80 x 24 has no room for the whole request in one code with its margin, so there it comes in two.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.console.codes import Overall
from appliance.console.codes_drawn import Drawn, drawn
from appliance.console.judgement import Judgement
from appliance.console.model import Box
from appliance.console.page import HEIGHT, WIDTH, ascii_text
from appliance.console.texts import Texts
from appliance.keys.code_parts import parts_of

TURN_S: Final = 10.0
"""How long a page stands before the next one."""
MOST_PARTS: Final = 3
_BESIDE: Final = 24
"""What the words beside a code need, in columns."""
_WIDEST: Final = 48


@dataclass(frozen=True, slots=True)
class Room:
    """How large a terminal is."""

    rows: int = HEIGHT
    columns: int = WIDTH + 1


def shown(page: tuple[str, ...], box: Box, judgement: Judgement, texts: Texts, room: Room | None) -> tuple[str, ...]:
    """What a terminal shows now: the page, with or without codes, or a code with a few words.

    :param page: the status page. :param room: ``None``: a terminal that only takes text.
    """
    request = box.watchdog.request
    if judgement.overall is not Overall.QUARANTINED or not box.watchdog.asks or not request:
        return page
    if room is None:
        return (*page, "", f" {texts.labels['request_text']}", *textwrap.wrap(request, WIDTH))
    codes = codes_of(request, room)
    turn = int(box.uptime_s / TURN_S)
    if codes and room.columns > WIDTH + 1 + codes[0].width:
        return _beside(page, codes[turn % len(codes)])
    place = turn % (len(codes) + 1)
    return page if place == 0 else _code_page(codes, place - 1, box, texts, room)


def codes_of(request: str, room: Room) -> tuple[Drawn, ...]:
    """As few codes as the terminal has room for; none: it is too small."""
    for count in range(1, MOST_PARTS + 1):
        codes = tuple(drawn(part) for part in parts_of(request, count))
        height, width = max(code.height for code in codes), max(code.width for code in codes)
        if height <= room.rows and width + 1 + _BESIDE < room.columns:
            return codes
    return ()


def _beside(page: Sequence[str], code: Drawn) -> tuple[str, ...]:
    left = [*page, *[""] * (code.height - len(page))]
    right = [*code.lines, *[""] * (len(page) - code.height)]
    return tuple(f"{a:<{WIDTH + 1}}{b}".rstrip() for a, b in zip(left, right, strict=True))


def _code_page(codes: tuple[Drawn, ...], place: int, box: Box, texts: Texts, room: Room) -> tuple[str, ...]:
    code = codes[place]
    width = min(_WIDEST, room.columns - 2 - code.width)
    words = list(_words(place, len(codes), box, texts, width))[: code.height]
    words += [""] * (code.height - len(words))
    return tuple(f"{line} {ascii_text(text)}".rstrip() for line, text in zip(code.lines, words, strict=True))


def _words(place: int, count: int, box: Box, texts: Texts, width: int) -> Iterator[str]:
    """What stands beside a code: which box and which quarantine, and what to do with it."""
    labels, watchdog = texts.labels, box.watchdog
    yield labels["qr_title"]
    if count > 1:
        yield labels["qr_part"].format(place=place + 1, count=count)
    told = [labels["qr_zone"].format(zone=box.zone or labels["unknown"], counter=watchdog.counter), watchdog.code]
    told += [labels["qr_evidence"], *textwrap.wrap(watchdog.evidence, min(width, 32))]
    for text in told:
        yield from textwrap.wrap(text, width)
    for text in (labels["qr_scan" if count == 1 else "qr_scan_all"].format(count=count), labels["qr_then"]):
        yield ""
        yield from textwrap.wrap(text, width)
