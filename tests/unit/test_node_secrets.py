# SPDX-License-Identifier: Apache-2.0
"""A node's secret files: what is in them is used, what is wrong in them is named, and never shown."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import Category, ProducerId, ZoneId
from appliance.boundary.producing import Producer
from appliance.boundary.reasons import Reason
from appliance.keys.local.store import LocalKeys
from appliance.node.secrets import LiveTokens, load_credentials, load_producers
from appliance.peer.tokens import Grant

DIGEST = hashlib.sha256(b"token").hexdigest()


def file(folder: Path, content: Any) -> Path:
    """A file with this JSON, or these bytes."""
    path = folder / "secrets.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_credentials_of_the_broker(tmp_path: Path) -> None:
    """Of both users, from the folder of local keys."""
    folder = LocalKeys.open(tmp_path / "local", ZoneId("plant-a")).folder
    agent, system = load_credentials(folder)
    assert (agent.path, system.path) == (folder / "agent.creds", folder / "sys.creds")
    for name in ("agent", "sys"):
        path = folder / f"{name}.creds"
        text = path.read_bytes()
        for damaged in (b"", b"\xff", text[:200], text.replace(b"SU", b"SX"), text * 200):
            path.write_bytes(damaged)
            with pytest.raises(RefusedError, match=re.escape(str(path))) as refused:
                load_credentials(folder)
            assert refused.value.reason is Reason.BAD_INPUT
            assert "SX" not in str(refused.value)
        path.unlink()
        with pytest.raises(RefusedError, match=re.escape(str(path))):
            load_credentials(folder)
        path.write_bytes(text)


def test_producers(tmp_path: Path) -> None:
    """By the digest of their token; without a list of categories they may append to all."""
    other = hashlib.sha256(b"other").hexdigest()
    path = file(
        tmp_path, {DIGEST: {"producer": "press-4"}, other: {"producer": "mes", "categories": ["audit"], "expires": 5}}
    )
    assert load_producers(path) == {
        bytes.fromhex(DIGEST): Grant(Producer(ProducerId("press-4"))),
        bytes.fromhex(other): Grant(Producer(ProducerId("mes"), frozenset({Category("audit")})), 5),
    }
    assert load_producers(file(tmp_path, {})) == {}


@pytest.mark.parametrize("content", [b"not json", b"\xff", []])
def test_what_is_no_table_of_tokens_is_named(tmp_path: Path, content: Any) -> None:
    """By file."""
    with pytest.raises(RefusedError) as refused:
        load_producers(file(tmp_path, content))
    assert str(tmp_path) in refused.value.detail


def test_tokens_change_while_they_are_used(tmp_path: Path) -> None:
    """A revoked one is worthless at once; a table that cannot be read changes nothing."""
    path = file(tmp_path, {DIGEST: {"producer": "press-4"}})
    live = LiveTokens(path)
    assert live("token") == Producer(ProducerId("press-4"))
    path.write_bytes(b"not json")
    assert live("token") == Producer(ProducerId("press-4"))
    file(tmp_path, {})
    assert live("token") is None
    file(tmp_path, {DIGEST: {"producer": "press-5", "expires": 4_000_000_000}})
    assert live("token") == Producer(ProducerId("press-5"))
    file(tmp_path, {DIGEST: {"producer": "press-5", "expires": 1_000_000_000}})
    assert live("token") is None
    path.unlink()
    with pytest.raises(RefusedError):
        LiveTokens(path)


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
        {DIGEST: {"producer": "press-4", "expires": "2027"}},
        {DIGEST: {"producer": "press-4", "expires": True}},
        {DIGEST: {"producer": "press-4", "expires": -1}},
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
    """As everything that is wrong."""
    with pytest.raises(RefusedError, match=r"none\.json"):
        load_producers(tmp_path / "none.json")
