# SPDX-License-Identifier: Apache-2.0
"""The secret files of a node: its credentials for the local broker, and the tokens of local producers."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any, Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import parse_category, parse_producer
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.factlog.natskeys import UserCredentials
from appliance.factlog.natslogin import CredentialsFile
from appliance.peer.tokens import Grant, TokenTable

_log = logging.getLogger(__name__)

_SHA256: Final = re.compile("[0-9a-f]{64}")


def load_credentials(folder: Path) -> tuple[CredentialsFile, CredentialsFile]:
    """The broker users ``agent`` and ``sys``, from ``agent.creds`` and ``sys.creds``.

    :raises RefusedError: ``bad_input`` naming the file.
    """
    files = [folder / f"{user}.creds" for user in ("agent", "sys")]
    for path in files:
        UserCredentials.load(path)
    return CredentialsFile(files[0]), CredentialsFile(files[1])


def load_producers(path: Path) -> dict[bytes, Grant]:
    """Local producers by SHA-256 of their token. :raises RefusedError: ``bad_input`` naming file and entry."""
    producers = {}
    for number, (digest, entry) in enumerate(_load(path).items(), start=1):
        try:
            producers[_digest(digest)] = _grant(entry)
        except RefusedError as error:
            raise RefusedError(Reason.BAD_INPUT, f"{path}: entry {number}: {error.detail}") from error
    return producers


def _digest(text: str) -> bytes:
    if not _SHA256.fullmatch(text):
        raise RefusedError(Reason.BAD_INPUT, "the key is the SHA-256 of the token, in hex")
    return bytes.fromhex(text)


class LiveTokens:
    """The table of tokens in a file, read anew when the file was replaced: a revoked token is worthless at once.

    A file that cannot be read changes nothing: producers go on, and the log says so.

    :raises RefusedError: ``bad_input``: at the start the file must be good.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self._table = TokenTable(load_producers(path))

    def __call__(self, token: str) -> Producer | None:
        """The producer whose token this is."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._table = TokenTable(load_producers(self._path))
            except RefusedError as error:
                _log.error("the tokens stay as they were: %s", error.detail)
        return self._table(token)

    def _look(self) -> tuple[int, ...]:
        try:
            state = self._path.stat()
        except OSError:
            return ()
        return state.st_mtime_ns, state.st_size, state.st_ino


def _grant(entry: Any) -> Grant:
    expires = entry.get("expires") if isinstance(entry, dict) else None
    if expires is not None and (type(expires) is not int or expires < 0):
        raise RefusedError(Reason.BAD_INPUT, "expires must be a time in Unix seconds")
    return Grant(_producer(entry), expires)


def _producer(entry: Any) -> Producer:
    if not isinstance(entry, dict) or not isinstance(entry.get("producer"), str):
        raise RefusedError(Reason.BAD_INPUT, "the value is an object with the producer's name")
    if unknown := sorted(entry.keys() - {"producer", "categories", "expires"}):
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
