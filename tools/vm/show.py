# SPDX-License-Identifier: Apache-2.0
"""What ``make vm`` shows: the serial line as it comes, and a plain table of how far the box is."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from tools.vm.transcript import Transcript

_CHANGES: Final = re.compile(r"\d+")
"""Numbers: a status page that paints itself anew differs in these alone."""
_REMEMBERED: Final = 400
_EVERY_S: Final = 0.5

STEPS: Final = {
    "booted": "the system runs; its disk was made and opened by the TPM",
    "secure boot": "Secure Boot is on, with our keys",
    "enrolled": "the hub has let the box in, by what its TPM proves",
    "tpm": "the TPM has proven to the hub what was started (attestation)",
    "speaking": "the watchdog has opened the uplink, and the hub answers",
    "out": "facts of a machine of the plant are at the hub",
    "in": "facts of the hub are read by the plant",
}


@dataclass(slots=True)
class Progress:
    """How far the box is. :param write: where lines go. :ivar done: seconds after power-on, and details, by step."""

    write: Callable[[str], None]
    done: dict[str, tuple[float, str]] = field(default_factory=dict)

    def reach(self, step: str, after_s: float, detail: str = "") -> None:
        """A step is done."""
        self.done[step] = (after_s, detail)
        self.write(f"{after_s:6.1f} s  {STEPS[step]}" + (f" ({detail})" if detail else ""))

    def table(self) -> str:
        """All steps; those that were not reached say so."""
        lines = ["step          after      what", "-----------  --------  " + "-" * 56]
        for step, text in STEPS.items():
            after, detail = self.done.get(step, (None, ""))
            when = "      no" if after is None else f"{after:6.1f} s"
            lines.append(f"{step:<11}  {when}  {text}" + (f" ({detail})" if detail else ""))
        return "\n".join(lines)

    @property
    def complete(self) -> bool:
        """Whether every step was reached."""
        return set(self.done) == set(STEPS)


class SerialShown:
    """Shows new lines of a serial line from a thread. A page that is painted again and again is shown once."""

    def __init__(self, serial: Transcript, write: Callable[[str], None]) -> None:
        self._serial = serial
        self._write = write
        self._position = 0
        self._known: dict[str, None] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="serial-shown", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Show what is left, and end."""
        self._stop.set()
        self._thread.join(5)
        self.show()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.show()
            time.sleep(_EVERY_S)

    def show(self) -> None:
        """Show the whole lines that have come since."""
        text = self._serial.text[self._position :]
        whole, newline, _ = text.rpartition("\n")
        self._position += len(whole) + len(newline)
        for line in whole.split("\n"):
            key = _CHANGES.sub("#", line.strip())
            if not key or key in self._known:
                continue
            self._known[key] = None
            if len(self._known) > _REMEMBERED:
                del self._known[next(iter(self._known))]
            self._write(f"          | {line.rstrip()[:140]}")
