# SPDX-License-Identifier: Apache-2.0
"""Real terminals (pseudo terminals of the kernel): what a person sees, how few bytes it takes, what stops nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.console import screen as screen_module
from appliance.console.page import HEIGHT
from appliance.console.screen import SILENT_AT_MOST_S, WHOLE_EVERY_S, Kind, Screen, kind_of
from tests.consoles import healthy, tell
from tests.terminals import Terminal

PAGE = [f"line {row}" for row in range(HEIGHT)]
MEMORY_KB = 15_000


@dataclass
class Line:
    """A pseudo terminal: what is written to ``slave`` comes out at ``master``."""

    master: int
    slave: int
    now: float = 0.0
    terminal: Terminal = field(default_factory=Terminal)

    def screen(self, kind: Kind) -> Screen:
        """A screen on it, whose clock the test sets."""
        os.set_blocking(self.slave, False)
        return Screen(self.slave, kind, lambda: self.now)

    def seen(self, wait_s: float = 0.2) -> str:
        """What came out, and put it on the terminal."""
        data = b""
        while select.select([self.master], [], [], wait_s)[0]:
            try:
                data += os.read(self.master, 65536)
            except OSError:  # the other end is closed
                break
            wait_s = 0.02
        text = data.decode("utf-8")
        self.terminal.feed(text)
        return text


@pytest.fixture
def line() -> Iterator[Line]:
    """A line with a terminal at its end."""
    master, slave = pty.openpty()
    yield Line(master, slave)
    for handle in (master, slave):
        with contextlib.suppress(OSError):
            os.close(handle)


def changed(row: int, text: str) -> list[str]:
    """The page with another line."""
    return [*PAGE[:row], text, *PAGE[row + 1 :]]


@pytest.mark.parametrize("kind", [Kind.SCREEN, Kind.SERIAL])
def test_a_person_sees_the_page(line: Line, kind: Kind) -> None:
    """The first page, changed lines, shorter lines; never a cursor, nothing scrolled; at the end a cursor again."""
    screen = line.screen(kind)
    for page in (PAGE, changed(3, "a longer line than before"), changed(3, ""), changed(23, "the last")):
        assert screen.show(page)
        line.seen()
        assert line.terminal.lines == page
        assert not line.terminal.cursor
    assert line.terminal.scrolled == 0
    screen.close()
    line.seen()
    assert line.terminal.cursor


def test_a_serial_line_is_spared(line: Line) -> None:
    """Nothing for nothing, one line for one line, the whole page each half minute for who has just plugged in."""
    screen = line.screen(Kind.SERIAL)
    screen.show(PAGE)
    assert len(line.seen()) > 200
    screen.show(PAGE)
    assert line.seen(0.05) == ""
    screen.show(changed(0, "14:03:07"))
    assert line.seen() == "\x1b[1;1H14:03:07\x1b[K"
    line.now = WHOLE_EVERY_S
    line.terminal = Terminal()
    screen.show(PAGE)
    line.seen()
    assert line.terminal.lines == PAGE


def test_a_screen_mends_what_was_written_over_it(line: Line) -> None:
    """The kernel writes to the console when it pleases."""
    screen = line.screen(Kind.SCREEN)
    screen.show(PAGE)
    os.write(line.slave, b"\x1b[5;1Hkernel: something happened\r\n")
    line.seen()
    assert line.terminal.lines != PAGE
    screen.show(PAGE)
    line.seen()
    assert line.terminal.lines == PAGE


def test_text_only(line: Line) -> None:
    """No sequences; a page when more than its clock changed, at most each half minute; a sign of life at times."""
    screen = line.screen(Kind.PLAIN)
    screen.show(PAGE)
    first = line.seen()
    assert "\x1b" not in first
    assert first.splitlines()[:HEIGHT] == PAGE
    line.now = 31
    screen.show(changed(0, "another time"))
    assert line.seen(0.05) == ""
    screen.show(changed(2, "another state"))
    assert "another state" in line.seen()
    line.now = 40
    screen.show(PAGE)
    assert line.seen(0.05) == ""
    line.now = 62
    screen.show(PAGE)
    assert "line 2" in line.seen()
    line.now += SILENT_AT_MOST_S
    screen.show(PAGE)
    assert "line 2" in line.seen()


def test_a_terminal_that_takes_nothing_stops_nothing(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is given up in time; when the terminal takes output again, all of the page stands there."""
    monkeypatch.setattr(screen_module, "PATIENCE_S", 0.2)
    screen = line.screen(Kind.SCREEN)
    full = 0
    while full < 5:  # the kernel moves what was written from one buffer to another, and so has room again for a moment
        try:
            os.write(line.slave, b"x" * 79 + b"\r\n")
            full = 0
        except BlockingIOError:
            full += 1
            time.sleep(0.05)
    began = time.monotonic()
    assert not screen.show(PAGE)
    assert time.monotonic() - began < 2
    while select.select([line.master], [], [], 0.1)[0]:
        os.read(line.master, 65536)
    assert screen.show(PAGE)
    line.seen()
    assert line.terminal.lines == PAGE


def test_what_is_typed_is_neither_shown_nor_obeyed(line: Line) -> None:
    """No echo, and Ctrl-S does not freeze the page; the terminal is given back as it was."""
    before = termios.tcgetattr(line.slave)
    screen = line.screen(Kind.SCREEN)
    screen.prepare()
    os.write(line.master, b"\x13rm -rf\r\n\x03\x1c")
    assert screen.show(PAGE)
    line.seen()
    assert line.terminal.lines == PAGE
    screen.close()
    assert termios.tcgetattr(line.slave) == before


def test_a_terminal_that_is_gone_is_an_error(line: Line) -> None:
    """The service ends, and is started again on a new one."""
    screen = line.screen(Kind.SERIAL)
    screen.show(PAGE)
    os.close(line.master)
    with pytest.raises(OSError, match="error"):
        screen.show(changed(0, "x"))


def test_kinds(line: Line, tmp_path: Path) -> None:
    """What is no terminal, or says that it can nothing, gets text."""
    assert kind_of(line.slave, "vt220") is Kind.SERIAL
    assert kind_of(line.slave, "linux") is Kind.SCREEN
    assert kind_of(line.slave, "dumb") is kind_of(line.slave, "") is Kind.PLAIN
    with (tmp_path / "file").open("w") as file:
        assert kind_of(file.fileno(), "linux") is Kind.PLAIN


# -- the service -------------------------------------------------------------------------------------------------------


@dataclass
class Service:
    """The service as systemd runs it: its terminal, and what it told systemd."""

    process: subprocess.Popen[bytes]
    line: Line
    socket: socket.socket

    def wait_for(self, text: str) -> None:
        """Until the terminal shows it."""
        end = time.monotonic() + 20
        while not any(text in shown for shown in self.line.terminal.lines):
            assert time.monotonic() < end, "\n".join(self.line.terminal.lines)
            assert self.process.poll() is None
            self.line.seen()

    def told(self, wait_s: float = 10) -> str:
        """The next message to systemd."""
        self.socket.settimeout(wait_s)
        return self.socket.recv(4096).decode()


@pytest.fixture
def service(tmp_path: Path, line: Line) -> Iterator[Service]:
    """The service on a healthy box's files."""
    box = tmp_path / "box"
    healthy(box)
    path = str(tmp_path / "notify")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(path)
    with (tmp_path / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-B", "-m", "appliance.console", "--root", str(box)],
            stdin=subprocess.DEVNULL,
            stdout=line.slave,
            stderr=errors,
            env={**os.environ, "TERM": "vt220", "NOTIFY_SOCKET": path},
        )
    try:
        yield Service(process, line, listener)
    finally:
        process.kill()
        process.wait()
        listener.close()


def test_the_service(service: Service, tmp_path: Path) -> None:
    """It shows what is there, follows it, lives for systemd, needs little memory, and ends when told."""
    box = tmp_path / "box"
    service.wait_for("BSFG appliance")
    assert "READY=1" in service.told()
    assert service.told() == "WATCHDOG=1"
    clock = service.line.terminal.lines[0]
    now = int(time.time() * 1000)
    tell(box, "watchdog", state="quarantined", updated_at_unix_ms=now)
    service.wait_for("LOCKED: QUARANTINED")
    assert service.line.terminal.lines[0] != clock
    rollup = Path(f"/proc/{service.process.pid}/smaps_rollup").read_text()
    (anonymous,) = re.findall(r"^Anonymous: +(\d+) kB", rollup, re.MULTILINE)
    assert int(anonymous) < MEMORY_KB
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(10) == 0
    service.line.seen()
    assert service.line.terminal.cursor
    assert (tmp_path / "errors").read_bytes() == b""


def test_the_service_lives_while_the_terminal_is_stuck(service: Service) -> None:
    """It pings on, and says so."""
    service.wait_for("BSFG appliance")
    termios.tcflow(service.line.slave, termios.TCOOFF)
    end = time.monotonic() + 20
    while "takes no output" not in service.told():
        assert time.monotonic() < end
    assert "WATCHDOG=1" in service.told()
    termios.tcflow(service.line.slave, termios.TCOON)
    while "takes no output" in (told := service.told()) or "STATUS" not in told:
        assert time.monotonic() < end + 20
        service.line.seen(0.05)
    service.line.terminal = Terminal()
    service.wait_for("BSFG appliance")


def test_the_service_reads_nothing_of_its_terminal(service: Service) -> None:
    """What is typed stays where it is; its handle cannot read."""
    service.wait_for("BSFG appliance")
    os.write(service.line.master, b"help\r\n")
    time.sleep(2.5)
    service.line.seen()
    assert not any("help" in shown for shown in service.line.terminal.lines)


def test_a_defect_of_the_page_becomes_a_page(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said on the page, logged once, and the service goes on."""
    from appliance.console import __main__ as main

    def fails(*_: object) -> None:
        raise RuntimeError("a \x1b[2J defect å")

    monkeypatch.setattr(main, "judge", fails)
    page = main.Page(tmp_path, None)
    shown = page.lines()
    screen = line.screen(Kind.SCREEN)
    assert screen.show(shown)
    line.seen()
    assert "THIS PAGE HAS A DEFECT" in line.terminal.lines[2]
    assert "RuntimeError: a ?[2J defect ?" in line.terminal.lines[3]
    assert len(page.lines()) == HEIGHT
    assert len(caplog.records) == 1


def test_a_terminal_that_cannot_be_opened(tmp_path: Path) -> None:
    """The service fails with its reason, and does not hang."""
    arguments = [sys.executable, "-B", "-m", "appliance.console", "--tty", str(tmp_path / "no")]
    ended = subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert "No such file" in ended.stderr


def test_a_terminal_by_name(line: Line, tmp_path: Path) -> None:
    """``--tty`` opens it itself, and never makes it its controlling one."""
    name = os.ttyname(line.slave)
    process = subprocess.Popen(
        [sys.executable, "-B", "-m", "appliance.console", "--tty", name, "--root", str(tmp_path), "--kind", "screen"],
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 20
        while "BSFG appliance" not in line.terminal.lines[0] and time.monotonic() < end:
            line.seen()
        assert "BSFG appliance" in line.terminal.lines[0]
        flags = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        assert flags[4] == "0", "it has a controlling terminal"
    finally:
        process.terminate()
        process.wait(10)


def test_the_command_watches(line: Line, tmp_path: Path) -> None:
    """``bsfg box status --watch``: the page until Ctrl-C, then the exit code; the terminal is as it was."""
    healthy(tmp_path)
    before = termios.tcgetattr(line.slave)
    process = subprocess.Popen(
        [sys.executable, "-m", "appliance.cli", "box", "status", "--watch", "--root", str(tmp_path)],
        stdout=line.slave,
        env={**os.environ, "TERM": "vt220"},
    )
    try:
        end = time.monotonic() + 20
        while "BSFG appliance" not in line.terminal.lines[0] and time.monotonic() < end:
            line.seen()
        assert "plant-a" in "".join(line.terminal.lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 3  # its documents are old by now
    finally:
        process.kill()
        process.wait()
    line.seen()
    assert line.terminal.cursor
    assert termios.tcgetattr(line.slave) == before
    assert not fcntl.fcntl(line.slave, fcntl.F_GETFL) & os.O_NONBLOCK
