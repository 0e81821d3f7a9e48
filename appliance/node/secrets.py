# SPDX-License-Identifier: Apache-2.0
"""The secret files of a node: passwords for the local broker, and the tokens of local producers; parsed strictly."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import parse_category, parse_producer
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.factlog.natswire import Credentials

_SHA256: Final = re.compile("[0-9a-f]{64}")


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
            producers[_digest(digest)] = _producer(entry)
        except RefusedError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: entry {number}: {error.detail}") from error
    return producers


def _digest(text: str) -> bytes:
    if not _SHA256.fullmatch(text):
        raise RefusedError(Reason.BAD_INPUT, "the key is the SHA-256 of the token, in hex")
    return bytes.fromhex(text)


def _producer(entry: Any) -> Producer:
    if not isinstance(entry, dict) or not isinstance(entry.get("producer"), str):
        raise RefusedError(Reason.BAD_INPUT, "the value is an object with the producer's name")
    if unknown := sorted(entry.keys() - {"producer", "categories"}):
        raise RefusedError(Reason.BAD_INPUT, f"unknown field {unknown[0]!r}")
    categories = entry.get("categories")
    if categories is None:
        return Producer(parse_producer(entry["producer"]))
    if not isinstance(categories, list) or not all(isinstance(name, str) for name in categories):
        raise RefusedError(Reason.BAD_INPUT, "categories must be a list of names")
    return Producer(parse_producer(entry["producer"]), frozenset(parse_category(name) for name in categories))


def _load(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RefusedError(Reason.BAD_INPUT, f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise RefusedError(Reason.BAD_INPUT, f"{path}: not a JSON object")
    return values
