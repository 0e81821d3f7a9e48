# SPDX-License-Identifier: Apache-2.0
"""The secret files of a node: passwords for the local broker, and the tokens of local producers; parsed strictly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import parse_category, parse_producer
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.factlog.natswire import Credentials


def load_credentials(path: Path) -> tuple[Credentials, Credentials]:
    """The broker users ``agent`` and ``sys``. :raises RefusedError: ``bad_input`` naming the file."""
    values = _load(path)
    found = []
    for user in ("agent", "sys"):
        password = values.get(user)
        if not isinstance(password, str) or not password:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: the password of {user!r} is missing")
        found.append(Credentials(user, password))
    return found[0], found[1]


def load_producers(path: Path) -> dict[bytes, Producer]:
    """Local producers by SHA-256 of their token. :raises RefusedError: ``bad_input`` naming file and entry."""
    producers = {}
    for number, (digest, entry) in enumerate(_load(path).items(), start=1):
        try:
            if len(key := bytes.fromhex(digest)) != 32 or not isinstance(entry, dict):
                raise RefusedError(Reason.BAD_INPUT, "the key is the SHA-256 of the token, the value an object")
            categories = entry.get("categories")
            allowed = None if categories is None else frozenset(parse_category(name) for name in categories)
            producers[key] = Producer(parse_producer(entry["producer"]), allowed)
        except (KeyError, ValueError, TypeError, RefusedError) as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: entry {number}: {error}") from error
    return producers


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise RefusedError(Reason.BAD_INPUT, f"{path}: not a JSON object")
    return values
