# SPDX-License-Identifier: Apache-2.0
"""When a process that ended is started again: as ``Restart=always`` with ``RestartSec=`` and growing pauses would.

Pure: it is told how long the process ran and says how long to wait.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """Pauses in seconds: ``first``, doubled each time up to ``longest``, ``first`` again after a run of ``proven``."""

    first: float = 0.5
    longest: float = 4.0
    proven: float = 10.0


@dataclass(slots=True)
class Restarts:
    """The history of one process that its next pause depends on."""

    policy: RestartPolicy
    in_a_row: int = 0
    total: int = 0

    def pause_after(self, ran: float) -> float:
        """The process ended after ``ran`` seconds: how long to wait before it is started again."""
        if ran >= self.policy.proven:
            self.in_a_row = 0
        pause = min(self.policy.first * (1 << min(self.in_a_row, 16)), self.policy.longest)
        self.in_a_row += 1
        self.total += 1
        return pause
