# SPDX-License-Identifier: Apache-2.0
"""What local producers hand in and what they are told: the producer's side of AppendFact."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from appliance.boundary.names import Category, ProducerId
from appliance.boundary.reasons import Reason


@dataclass(frozen=True, slots=True)
class Producer:
    """A proven local producer and what its credential allows (``None``: every category)."""

    id: ProducerId
    categories: frozenset[Category] | None = None

    def may_append(self, category: Category) -> bool:
        """Whether the credential covers a category."""
        return self.categories is None or category in self.categories


@dataclass(frozen=True, slots=True)
class ProducedFact:
    """One fact as it came in: where it is to go, and the JSON text of ``{envelope, fact}``, not yet validated."""

    subject: str
    payload: bytes
    header_id: str | None = None


class AppendOutcome(StrEnum):
    """What became of one produced fact."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    INVALID = "invalid"
    NOT_STORED = "not_stored"


@dataclass(frozen=True, slots=True)
class AppendResult:
    """The answer for one produced fact; ``offset`` for stored and duplicate, ``reason`` for the others."""

    outcome: AppendOutcome
    offset: int = 0
    reason: Reason | None = None
    detail: str = ""
