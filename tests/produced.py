# SPDX-License-Identifier: Apache-2.0
"""What producers send, for tests: subjects and the JSON text of ``{envelope, fact}``."""

from __future__ import annotations

import json
from typing import Any

from appliance.boundary.names import ZoneId
from appliance.boundary.producing import ProducedFact

PLANT = ZoneId("plant-a")


def subject(category: str = "audit", *, origin: str = "plant-a", to: str = "all", producer: str = "press-4") -> str:
    """Where a fact is published."""
    return f"facts.{category}.{origin}.{to}.{producer}.reading"


def document(message_id: str, *, origin: str = "plant-a", to: str = "all", **values: Any) -> dict[str, Any]:
    """The message of a fact with these values."""
    return {
        "envelope": {
            "message_id": message_id,
            "from_zone": f"{origin}-bsfg",
            "to_zone": to if to == "all" else f"{to}-bsfg",
            "produced_at_unix_ms": 1_700_000_000_000,
        },
        "fact": {"subject": "press:4", "predicate": "read", "object_json": values},
    }


def payload(message_id: str, *, origin: str = "plant-a", to: str = "all", **values: Any) -> bytes:
    """The same as it is sent."""
    return json.dumps(document(message_id, origin=origin, to=to, **values)).encode()


def produced(message_id: str, category: str = "audit", *, producer: str = "press-4", **values: Any) -> ProducedFact:
    """A fact of plant-a as it came in."""
    return ProducedFact(subject(category, producer=producer), payload(message_id, **values))
