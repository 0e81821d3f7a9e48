# SPDX-License-Identifier: Apache-2.0
"""What a probe is, and what it says: the port between those who look and the one who decides.

A probe looks at one thing with the rights that this takes, and never decides. It says what it saw as a
:class:`Reading`; what that means stands in :data:`~appliance.watchdog.suspicions.SUSPICIONS`. Probes that need rights
to read run in the sensor's process (:mod:`appliance.watchdog.sensor`), which has no network; those that ask the keeper
(:class:`AsyncProbe`) or the firewall run in the watchdog's own.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, Self

import trio

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason
from appliance.watchdog.secrecy import clean
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName

READING_BYTES: Final = 16 * 1024
"""The longest reading on the wire, newline included."""
DETAIL_LENGTH: Final = 300
SEEN: Final = 32
"""The most suspicions in one reading; what is beyond is left out, for one is enough."""
FACTS: Final = 32
PATIENCE_S: Final = 8.0
"""How long whoever is asked may think; a reading counts for 10 s."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that is wrong. :param detail: what exactly, at most 300 characters, with no secret in it."""

    code: Code
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a probe saw at one look.

    :param seen: what is wrong; empty: all is well.
    :param blind: why it could not look, in words; empty: it could.
    :param facts: what it measured, for the evidence; short texts with no secret in them.
    """

    probe: ProbeName
    seen: tuple[Seen, ...] = ()
    blind: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> bytes:
        """One line of JSON, cut to what may be sent; what it is about comes from anywhere, so it is made printable."""
        seen = [{"code": each.code, "detail": _printable(each.detail)} for each in self.seen[:SEEN]]
        facts = {_printable(key)[:64]: _printable(value) for key, value in list(self.facts.items())[:FACTS]}
        values: dict[str, Any] = {"probe": self.probe, "seen": seen, "blind": _printable(self.blind)}
        line = json.dumps({**values, "facts": facts}).encode() + b"\n"
        return line if len(line) <= READING_BYTES else json.dumps({**values, "facts": {}}).encode() + b"\n"

    @classmethod
    def parse(cls, line: bytes) -> Self:
        """Read such a line. :raises RefusedError: ``bad_document``: it is none, or a probe says another's code."""
        try:
            if len(line) > READING_BYTES:
                raise ValueError("too long")
            values = json.loads(line)
            if set(values) != {"probe", "seen", "blind", "facts"}:
                raise ValueError("other fields")
            probe = ProbeName(values["probe"])
            seen = tuple(_seen(probe, each) for each in values["seen"][:SEEN])
            facts = {_text(key, 64): _text(value) for key, value in list(values["facts"].items())[:FACTS]}
            return cls(probe, seen, _text(values["blind"]), facts)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RefusedError(Reason.BAD_DOCUMENT, f"reading: {error}") from error


class Probe(Protocol):
    """Looks at one thing; one caller at a time, in a thread of its own.

    :ivar name: whose it is. :ivar period_s: seconds between two looks, when no event comes.
    """

    name: ProbeName
    period_s: float

    def look(self) -> Reading:
        """What is seen now. Blocking, for a second at most unless the probe says otherwise.

        Raises nothing: what it cannot see is :attr:`Reading.blind`.
        """
        ...

    def descriptor(self) -> int | None:
        """What becomes readable (or, for the mount table, exceptional) when there is something to see.

        ``None``: it is asked each period only. :meth:`look` takes what is there to be read.
        """
        ...

    def close(self) -> None:
        """Give back what it holds."""
        ...


class AsyncProbe(Protocol):
    """Looks at one thing by asking another program, such as the keeper; one caller at a time.

    :ivar name: whose it is. :ivar period_s: seconds between two looks.
    """

    name: ProbeName
    period_s: float

    async def look(self) -> Reading:
        """What is seen now. Raises nothing but cancellation; whoever asks sets a deadline (:func:`asked`)."""
        ...


async def asked(probe: AsyncProbe, patience_s: float = PATIENCE_S) -> Reading:
    """What such a probe sees; it is blind when it does not answer in time, and when it fails.

    A defect of one probe must not end the watchdog: it closes the uplink as any blindness does.
    """
    with trio.move_on_after(patience_s):
        try:
            return await probe.look()
        except Exception as error:  # noqa: BLE001 - see above
            _log.exception("probe %s", probe.name)
            return Reading(probe.name, blind=f"{type(error).__name__}: {error}")
    return Reading(probe.name, blind=f"no answer within {patience_s:g} s")


def _seen(probe: ProbeName, values: Any) -> Seen:
    code = Code(values["code"])
    if SUSPICIONS[code].probe is not probe:
        raise ValueError(f"{probe} says {code}")
    return Seen(code, _text(values["detail"]))


def _printable(text: str) -> str:
    """Short, printable, and without what looks like a secret; a text that is so already stays as it is."""
    cut = "".join(each if each.isprintable() and each.isascii() else "?" for each in text[: 2 * DETAIL_LENGTH])
    return clean(cut)[:DETAIL_LENGTH]


def _text(value: Any, length: int = DETAIL_LENGTH) -> str:
    if not isinstance(value, str) or len(value) > length or not value.isprintable():
        raise ValueError("not a short text")
    return value
