# SPDX-License-Identifier: Apache-2.0
"""States of a box's services, for whoever reads their status documents and needs nothing else of them."""

from __future__ import annotations

from enum import StrEnum


class EnrolState(StrEnum):
    """How the box stands with the hub."""

    CALLING = "calling"
    """The hub could not be asked yet, or not reached."""
    WAITING = "waiting"
    """The hub knows this box; an operator has to let it in."""
    REFUSED = "refused"
    ENROLLED = "enrolled"
