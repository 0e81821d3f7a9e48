# SPDX-License-Identifier: Apache-2.0
"""An application of the plant beside a box: named in its site configuration, with secrets that were made at the site.

It runs on the plant's network and reaches the box at the two documented ports, over TLS. So what it is told is known
outside of the box, whatever happens to that.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.vm import pace
from tools.vm.faults import VmError
from tools.vm.images import ROOT
from tools.vm.segment import Segment

NAME: Final = "press-4"
ADDRESS: Final = "192.168.77.1"
"""The box on the plant's network."""
PORTS: Final = (4222, 8443)
"""The documented ones, of NATS and HTTPS."""
_GOOD: Final = ("APPEND_OUTCOME_STORED", "APPEND_OUTCOME_DUPLICATE")


@dataclass(frozen=True, slots=True)
class Application:
    """A producer and reader of the plant. :param secrets: folder with its credentials, token, and the box's CA."""

    plant: Segment
    secrets: Path

    def append(
        self,
        prefix: str,
        count: int,
        *,
        first: int = 0,
        category: str = "operational",
        to: str = "enterprise-bsfg",
        patience: float = 60.0,
    ) -> dict[str, Any]:
        """Append facts with ids ``prefix-N``; for each id outcome, reason and offset; under ``error`` what else came.

        :param patience: seconds to send again what is not answered, as a good producer does.
        """
        given = {
            "prefix": prefix,
            "count": count,
            "first": first,
            "category": category,
            "to": to,
            "patience": patience,
            "produced_at_unix_ms": time.time_ns() // 1_000_000,
        }
        found: dict[str, Any] = self._run("append", given, patience + 60)
        return found

    def stored(self, prefix: str, count: int, **how: Any) -> set[str]:
        """As :meth:`append`, where all must be stored; their ids. :raises VmError: some were not."""
        answers = self.append(prefix, count, **how)
        good = confirmed(answers)
        if len(good) != count:
            raise VmError(f"{len(good)} of {count} facts were stored; the first others: {_others(answers)}")
        return good

    def received(self, origin: str = "ENTERPRISE") -> list[str]:
        """The ids of the facts that came from another zone, as a reader of the plant finds them."""
        return self._read(origin)

    def own(self) -> list[str]:
        """The ids of the zone's own facts in its logs."""
        return self._read("")

    def _read(self, origin: str) -> list[str]:
        patience = pace.limit(60)
        found: list[str] = self._run("read", {"origin": origin, "patience": patience}, patience + 60)
        return found

    def connects(self, ports: Sequence[int]) -> dict[int, str]:
        """What becomes of a connection to each port of the box: ``open``, ``refused``, ``silent``."""
        found = self._run("connects", {"ports": list(ports)}, 0.1 * len(ports) + 60)
        return {int(port): what for port, what in found.items()}

    def _run(self, command: str, given: dict[str, Any], seconds: float) -> Any:
        argv = [sys.executable, "-m", "tools.vm.plantside", command, str(self.secrets), NAME, ADDRESS]
        done = subprocess.run(
            self.plant.inside(*argv),
            input=json.dumps(given),
            capture_output=True,
            text=True,
            timeout=pace.limit(seconds),
            cwd=ROOT,
            check=False,
        )
        if done.returncode:
            raise VmError(f"the plant's application ({command}) failed: {done.stderr[-1500:]}")
        return json.loads(done.stdout)


def confirmed(answers: dict[str, Any]) -> set[str]:
    """The ids that were answered as stored, or as stored before."""
    return {name for name, answer in answers.items() if name != "error" and answer[0] in _GOOD}


def _others(answers: dict[str, Any]) -> Sequence[object]:
    good = confirmed(answers)
    return [(name, answer) for name, answer in answers.items() if name not in good][:3]
