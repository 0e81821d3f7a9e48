# SPDX-License-Identifier: Apache-2.0
"""A node's secret files: what is in them is used, what is wrong in them is named, and never shown."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ProducerId
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.factlog.natswire import Credentials
from appliance.node.secrets import load_credentials, load_producers

DIGEST = hashlib.sha256(b"token").hexdigest()


def file(folder: Path, content: Any) -> Path:
    """A file with this JSON, or these bytes."""
    path = folder / "secrets.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_passwords(tmp_path: Path) -> None:
    """Of both users; others in the file are somebody else's."""
    path = file(tmp_path, {"agent": "one", "sys": "two", "more": 3})
    agent, system = load_credentials(path)
    assert (agent, system) == (Credentials("agent", "one"), Credentials("sys", "two"))
    assert "one" not in repr(agent)


def test_producers(tmp_path: Path) -> None:
    """By the digest of their token; without a list of categories they may append to all."""
    other = hashlib.sha256(b"other").hexdigest()
    path = file(tmp_path, {DIGEST: {"producer": "press-4"}, other: {"producer": "mes", "categories": ["audit"]}})
    assert load_producers(path) == {
        bytes.fromhex(DIGEST): Producer(ProducerId("press-4")),
        bytes.fromhex(other): Producer(ProducerId("mes"), frozenset({Category("audit")})),
    }
    assert load_producers(file(tmp_path, {})) == {}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"not json", "secrets.json"),
        (b"\xff", "secrets.json"),
        ([], "not a JSON object"),
        ({"sys": "two"}, "the password of 'agent' is missing"),
        ({"agent": "", "sys": "two"}, "the password of 'agent' is missing"),
        ({"agent": "secret-password"}, "the password of 'sys' is missing"),
        ({"agent": "secret-password", "sys": 5}, "the password of 'sys' is missing"),
    ],
)
def test_what_is_wrong_with_passwords_is_named(tmp_path: Path, content: Any, named: str) -> None:
    """By file and user."""
    with pytest.raises(RefusedError) as refused:
        load_credentials(file(tmp_path, content))
    assert refused.value.reason is Reason.BAD_INPUT
    assert str(tmp_path) in refused.value.detail
    assert named in refused.value.detail
    assert "secret-password" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        {"token": {"producer": "press-4"}},
        {DIGEST[:-2]: {"producer": "press-4"}},
        {DIGEST: "press-4"},
        {DIGEST: {}},
        {DIGEST: {"producer": "Press 4"}},
        {DIGEST: {"producer": 4}},
        {DIGEST: {"producer": "press-4", "categories": 5}},
        {DIGEST: {"producer": "press-4", "categories": [5]}},
        {DIGEST: {"producer": "press-4", "categories": ["A B"]}},
        {DIGEST: {"producer": "press-4", "categories": "audit"}},
        {DIGEST: {"producer": "press-4", "x": 1}},
        {DIGEST.upper() + " ": {"producer": "press-4"}},
    ],
)
def test_what_is_wrong_with_a_producer_is_named(tmp_path: Path, content: Any) -> None:
    """By file and entry. A string is no list: its letters are not the categories that were meant."""
    with pytest.raises(RefusedError, match="entry 1: ") as refused:
        load_producers(file(tmp_path, content))
    assert refused.value.reason is Reason.BAD_INPUT
    assert str(tmp_path) in refused.value.detail


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """Both kinds."""
    for load in (load_credentials, load_producers):
        with pytest.raises(RefusedError, match=r"none\.json"):
            load(tmp_path / "none.json")
