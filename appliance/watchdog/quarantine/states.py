# SPDX-License-Identifier: Apache-2.0
"""The state machine of a quarantine, as a table: how dark the box is, and what changes that. Data.

:class:`~appliance.watchdog.quarantine.runner.Quarantine` goes by it: what it does not have does not happen. What the
whole watchdog looks like from outside stands in :mod:`appliance.watchdog.transitions`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Darkness(StrEnum):
    """Why nothing at all may leave the box."""

    NONE = "none"
    """It is not dark; what may leave is the lease's business."""
    QUARANTINED = "quarantined"
    """The uplink is dark, and the TPM locks the boundary key until two operators release it."""
    IN_DOUBT = "in_doubt"
    """What the disk says of a quarantine cannot be read; the uplink is dark until the TPM has answered."""
    RELEASED = "released"
    """Two operators have released it; the uplink stays dark until the machine is started again."""


class Event(StrEnum):
    """What changes it."""

    FINDING = "finding"
    """A probe has seen something that quarantines, or somebody with rights has asked for it."""
    REMEMBERED = "remembered"
    """At the start of the watchdog: the disk, or the kernel, says that the box is in quarantine."""
    DAMAGED = "damaged"
    """At the start of the watchdog: a file of the quarantine is there and cannot be read."""
    WAITED = "waited"
    """At the start of the watchdog: the box was released since the machine was started."""
    LOCKED = "locked"
    """The TPM answers that the key is locked."""
    OPENS = "opens"
    """The TPM has shown that the key opens."""
    RELEASE = "release"
    """The TPM took a release of both operators, for this counter and over this evidence."""
    RESTART = "restart"
    """The machine is started again."""


_D, _E = Darkness, Event
TRANSITIONS: Final[Mapping[tuple[Darkness, Event], Darkness]] = {
    (_D.NONE, _E.FINDING): _D.QUARANTINED,
    (_D.NONE, _E.REMEMBERED): _D.QUARANTINED,
    (_D.NONE, _E.DAMAGED): _D.IN_DOUBT,
    (_D.NONE, _E.WAITED): _D.RELEASED,
    (_D.IN_DOUBT, _E.FINDING): _D.QUARANTINED,
    (_D.IN_DOUBT, _E.LOCKED): _D.QUARANTINED,
    (_D.IN_DOUBT, _E.OPENS): _D.NONE,
    (_D.QUARANTINED, _E.RELEASE): _D.RELEASED,
    (_D.QUARANTINED, _E.RESTART): _D.QUARANTINED,
    (_D.RELEASED, _E.RESTART): _D.NONE,
}
"""From state and event to state. A finding on a box that is quarantined or released changes nothing: it is dark."""
