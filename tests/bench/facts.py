# SPDX-License-Identifier: Apache-2.0
"""The facts that cross: small, numbered, and known byte by byte, so that what arrived can be compared with them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from appliance.boundary.names import Category, ZoneId, identity_of

CATEGORY: Final = Category("operational")
PRODUCER: Final = "app"
"""The local user that produces and reads."""
SIZE: Final = 256
"""Bytes of the canonical JSON of one message."""
_SENSORS: Final = 4


@dataclass(frozen=True, slots=True)
class FactFactory:
    """Makes the facts of one zone for another; ``run`` keeps their ids apart from other runs'."""

    zone: ZoneId
    to: ZoneId
    run: str
    produced_at_unix_ms: int

    def subject(self, number: int) -> str:
        """The subject of a fact."""
        return f"facts.{CATEGORY}.{self.zone}.{self.to}.{PRODUCER}.sensor-{number % _SENSORS}"

    def payload(self, number: int) -> bytes:
        """The message of a fact, :data:`SIZE` bytes long; as written here it is in its canonical form already."""
        document = {
            "envelope": {
                "from_zone": identity_of(self.zone),
                "message_id": f"{self.run}-{number:08d}",
                "produced_at_unix_ms": self.produced_at_unix_ms,
                "to_zone": identity_of(self.to),
            },
            "fact": {
                "object_json": {"note": "", "reading": number, "unit": "mbar"},
                "predicate": "measured",
                "subject": f"sensor:{number % _SENSORS}",
            },
        }
        text = json.dumps(document, separators=(",", ":"), sort_keys=True)
        return text.replace('"note":""', f'"note":"{"." * (SIZE - len(text))}"').encode()


def add_to_digest(total: hashlib._Hash, payloads: Iterable[bytes]) -> None:
    """Add messages, in order; their lengths go in too, so that no two sequences have the same digest."""
    for payload in payloads:
        total.update(b"%d:" % len(payload))
        total.update(payload)


def digest(payloads: Iterable[bytes]) -> str:
    """SHA-256 over messages in order."""
    total = hashlib.sha256()
    add_to_digest(total, payloads)
    return total.hexdigest()


@dataclass(frozen=True, slots=True)
class Stock:
    """What lies in a filled log: subjects and messages in order."""

    subjects: Sequence[str]
    payloads: Sequence[bytes]

    @classmethod
    def make(cls, factory: FactFactory, count: int) -> Stock:
        """The first ``count`` facts of a factory."""
        numbers = range(1, count + 1)
        return cls([factory.subject(n) for n in numbers], [factory.payload(n) for n in numbers])

    def first(self, count: int) -> Stock:
        """The beginning of it."""
        return Stock(self.subjects[:count], self.payloads[:count])

    def __len__(self) -> int:
        return len(self.payloads)
