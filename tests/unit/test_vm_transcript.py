# SPDX-License-Identifier: Apache-2.0
"""What a machine writes on its serial line, as text that can be waited for."""

from __future__ import annotations

import threading
import time

import pytest

from tools.vm.faults import AwaitedError, EndedError
from tools.vm.transcript import TAIL_LINES, Transcript

COLOURED = b"\x1b[2J\x1b[01;01H\x1b[0m\x1b[37mBdsDxe: \x1b]0;title\x07starting\r\n\x1b(Bcaf\xc3\xa9\x1b=\r\n"


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(COLOURED)])
def test_escape_sequences_are_taken_out_however_they_are_cut(size: int) -> None:
    """Firmware and status page paint; a line comes in pieces."""
    line = Transcript()
    for start in range(0, len(COLOURED), size):
        line.feed(COLOURED[start : start + size])
    assert line.text == "BdsDxe: starting\ncafé\n"


def test_an_escape_that_never_ends_hides_no_more_than_a_little() -> None:
    """A machine that writes garbage is still read."""
    line = Transcript()
    line.feed(b"\x1b]" + b"x" * 1000 + b"end")
    assert line.text.endswith("end")


def test_the_first_of_several_patterns_is_found() -> None:
    """And where it ends, to go on from there."""
    line = Transcript()
    line.feed(b"one\ntwo\none again\n")
    seen = line.wait("two", "^one", seconds=0, what="a number")
    assert (seen.text, seen.pattern) == ("one", "^one")
    assert line.wait("^one", seconds=0, what="the next", since=seen.end).end == len("one\ntwo\none")
    assert line.has("^two$")
    assert not line.has("^two$", since=len("one\ntwo\n"))


def test_what_comes_later_is_waited_for() -> None:
    """From another thread, as from a real line."""
    line = Transcript()
    timer = threading.Timer(0.05, line.feed, [b"login\n"])
    timer.start()
    start = time.monotonic()
    assert line.wait("login", seconds=10, what="login").text == "login"
    assert time.monotonic() - start < 5
    timer.join()


def test_what_must_not_come_ends_the_waiting() -> None:
    """Only when it comes first."""
    line = Transcript()
    line.feed(b"panic\nready\n")
    with pytest.raises(AwaitedError, match=r"the system: 'panic' came instead"):
        line.wait("ready", seconds=10, what="the system", never=["panic"])
    assert line.wait("panic", seconds=0, what="it", never=["ready"]).text == "panic"


def test_an_error_says_what_was_awaited_and_how_the_line_ended() -> None:
    """The last forty lines that are not empty."""
    line = Transcript()
    line.feed("".join(f"line {number}\n\n" for number in range(100)).encode())
    with pytest.raises(AwaitedError, match="the hub: 'enrolled' did not come within 0 s") as caught:
        line.wait("enrolled", seconds=0, what="the hub")
    assert "line 99" in str(caught.value)
    assert f"line {100 - TAIL_LINES}\n" in str(caught.value)
    assert f"line {99 - TAIL_LINES}\n" not in str(caught.value)


def test_an_end_is_told_at_once() -> None:
    """Nobody waits for a machine that is off; what came before counts."""
    line = Transcript()
    line.feed(b"reboot: Power down\n")
    line.end("QEMU ended")
    assert line.wait("Power down", seconds=10, what="power").text == "Power down"
    start = time.monotonic()
    with pytest.raises(EndedError, match=r"login: the machine ended first \(QEMU ended\)"):
        line.wait("login", seconds=10, what="login")
    assert time.monotonic() - start < 5
