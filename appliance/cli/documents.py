# SPDX-License-Identifier: Apache-2.0
"""What a file claims to be, before anything reads it."""

from __future__ import annotations

import json


def format_of(data: bytes) -> str | None:
    """The ``format`` that a text names; ``None``: it is no JSON object, or names none."""
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return None
    named = values.get("format") if isinstance(values, dict) else None
    return named if isinstance(named, str) else None
