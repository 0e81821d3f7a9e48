# SPDX-License-Identifier: Apache-2.0
"""The request for release as QR codes, read off real terminals by a reader that shares nothing with what draws them."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import termios
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import zxingcpp

from appliance.console.codes import Overall
from appliance.console.codes_drawn import QUIET, drawn
from appliance.console.model import Looker
from appliance.console.page import HEIGHT, WIDTH, render
from appliance.console.screen import Kind, Screen
from appliance.console.texts import load
from appliance.console.turning import TURN_S, Room, codes_of, shown
from appliance.keys.code_parts import is_code
from appliance.keys.release import check_request
from appliance.keys.release_code import ReleaseCode
from tests.consoles import CASES, REQUEST, FixedClock, in_quarantine, see
from tests.releases import Case
from tests.terminals import Terminal

SMALLEST = "24 lines"
ROOMS = {
    SMALLEST: Room(24, 80),
    "a text console": Room(25, 80),
    "800 x 600": Room(37, 100),
    "1024 x 768": Room(48, 128),
    "1280 x 800": Room(50, 160),
    "wide, not high": Room(24, 200),
}
TURNS = 4


def read(terminal: Terminal) -> list[str]:
    """The texts of all QR codes on a screen. What is light on dark as a whole is not read."""
    found = zxingcpp.read_barcodes(terminal.picture(), try_invert=False)
    return [each.text for each in found]


Line = Callable[[Room | None, Kind], tuple[Screen, Callable[[], Terminal]]]


@pytest.fixture
def line() -> Iterator[Line]:
    """Pseudo terminals of the kernel, as large as one likes; and what a person sees there."""
    handles: list[int] = []

    def made(room: Room | None, kind: Kind) -> tuple[Screen, Callable[[], Terminal]]:
        master, slave = pty.openpty()
        handles.extend((master, slave))
        if room is not None:
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", room.rows, room.columns, 0, 0))
        os.set_blocking(slave, False)
        os.set_blocking(master, False)
        terminal = Terminal(room.rows, room.columns) if room is not None else Terminal()

        def looked() -> Terminal:
            data = b""
            try:
                while part := os.read(master, 65536):
                    data += part
            except BlockingIOError:
                terminal.feed(data.decode("utf-8"))
            return terminal

        return Screen(slave, kind), looked

    yield made
    for handle in handles:
        os.close(handle)


@pytest.mark.parametrize(("name", "kind"), [*((each, Kind.SCREEN) for each in ROOMS), (SMALLEST, Kind.SERIAL)])
def test_a_scanner_reads_the_request_off_the_terminal(line: Line, tmp_path: Path, name: str, kind: Kind) -> None:
    """From the keeper's certificate to the operator's desk: what is scanned is the request, byte for byte."""
    case, room, texts = Case.make(), ROOMS[name], load()
    box, judgement = see(tmp_path, "quarantined")
    request = ReleaseCode.of(case.request).render()
    screen, looked = line(room, kind)
    assert screen.room() == room
    found: list[str] = []
    pages = 0
    for turn in range(TURNS):
        box = replace(box, uptime_s=turn * TURN_S + 1, watchdog=replace(box.watchdog, request=request))
        page = shown(render(box, judgement, texts), box, judgement, texts, screen.room())
        assert screen.show(page)
        terminal = looked()
        assert terminal.scrolled == 0
        pages += any("LOCKED: QUARANTINED" in each for each in terminal.lines)
        codes = read(terminal)
        assert len(codes) <= 1
        assert all("plant-a, counter 2" in "\n".join(terminal.lines) or room.columns > 132 for _ in codes)
        found += codes
    assert pages >= 1, "the page is there, too"
    assert all(is_code(each) for each in found)
    asked = ReleaseCode.parse("\n".join(found)).request(case.box)
    assert asked == case.request
    check_request(case.box, asked)


def test_a_serial_line_tells_no_size(line: Line) -> None:
    """Then it is taken for one of 24 lines; and where there is no cursor, there are no codes."""
    assert line(None, Kind.SERIAL)[0].room() == Room(24, 80)
    assert line(None, Kind.PLAIN)[0].room() is None


def test_a_reader_of_broken_codes_finds_nothing() -> None:
    """The reader is not simply content: a code with exchanged colours, or half of one, is none."""
    code = drawn(REQUEST)
    terminal = Terminal(30, 80)
    terminal.feed("\r\n".join(code.lines))
    assert read(terminal) == [REQUEST]
    exchanged = str.maketrans("\u2588 \u2580\u2584", " \u2588\u2584\u2580")
    for lines in ([each.translate(exchanged) for each in code.lines], code.lines[: code.height // 2]):
        terminal = Terminal(30, 80)
        terminal.feed("\r\n".join(lines))
        assert read(terminal) == []


def test_a_code_has_its_margin() -> None:
    """Four light modules all around, which are two lines and four columns."""
    plain = [each.replace("\x1b[0;1;37;40m", "").removesuffix("\x1b[0m") for each in drawn(REQUEST).lines]
    assert {len(each) for each in plain} == {drawn(REQUEST).width}
    light = "\u2588"
    assert all(each == light * len(each) for each in (*plain[:2], *plain[-2:]))
    assert all(each[:QUIET] == each[-QUIET:] == light * QUIET for each in plain)


def test_as_few_codes_as_fit() -> None:
    """One where there is room, two on a text console, none on what is smaller."""
    assert len(codes_of(REQUEST, Room(27, 80))) == 1
    assert len(codes_of(REQUEST, Room(24, 80))) == len(codes_of(REQUEST, Room(26, 200))) == 2
    assert codes_of(REQUEST, Room(20, 80)) == codes_of(REQUEST, Room(50, 60)) == ()


@pytest.mark.parametrize("name", CASES)
def test_only_a_box_in_quarantine_shows_codes(tmp_path: Path, name: str) -> None:
    """And only if there is evidence that operators can sign over."""
    box, judgement = see(tmp_path, name)
    page = render(box, judgement, load())
    turns = [replace(box, uptime_s=turn * TURN_S) for turn in range(TURNS)]
    pages = [shown(page, each, judgement, load(), Room()) for each in turns]
    shows = judgement.overall is Overall.QUARANTINED and name != "quarantined_tpm_busy"
    assert any(each != page for each in pages) is shows
    text = shown(page, box, judgement, load(), None)
    assert (REQUEST in "".join(text)) is shows
    assert "\u2588" not in "".join(text)


def test_beside_the_page_nothing_is_lost(tmp_path: Path) -> None:
    """A wide terminal has both at once."""
    box, judgement = see(tmp_path, "quarantined")
    page = render(box, judgement, load())
    both = shown(page, box, judgement, load(), Room(50, 160))
    assert [line[: WIDTH + 1].split("\x1b")[0].rstrip() for line in both][:HEIGHT] == list(page)
    assert len(both) == drawn(REQUEST).height


@pytest.mark.parametrize("text", ["BSFG:R1:\x1b[2J", "bsfg:r1:aa", "http://example.com/", "BSFG:R1:" + "A" * 900, 7])
def test_a_watchdog_that_was_taken_over_draws_nothing_else(tmp_path: Path, text: object) -> None:
    """What is no request is not shown."""
    see(tmp_path, "quarantined")
    in_quarantine(tmp_path, request=text)
    assert Looker(tmp_path, clock=FixedClock()).look().watchdog.request == ""
