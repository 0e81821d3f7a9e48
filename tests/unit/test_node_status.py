# SPDX-License-Identifier: Apache-2.0
"""The status document: what is written is read, whole or not at all, by older and newer readers."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.errors import UnavailableError
from appliance.boundary.reasons import Reason
from appliance.node.status import (
    SCHEMA,
    STALE_AFTER_S,
    BrokerStatus,
    CrossingReport,
    PeerStatus,
    Problem,
    StatusDocument,
    StoreStatus,
    hint_of,
)


def document(**changes: Any) -> StatusDocument:
    """A document with every part."""
    now = int(time.time() * 1000)
    full = StatusDocument(
        name="agent",
        zone="plant-a",
        version="1",
        pid=7,
        ready=True,
        mode="normal",
        mode_since_unix_ms=now - 5000,
        mode_changes=3,
        updated_at_unix_ms=now,
        keys="software",
        broker=BrokerStatus(True, "2.15.1", True, 2),
        stores=(StoreStatus("audit", 9, 5, 4, 1, 2), StoreStatus("telemetry")),
        crossings=(CrossingReport("push audit", "push", "audit", "enterprise", lag=4, reachable=True),),
        peers=(PeerStatus("plant-a", 5, 6, 1),),
        problems=(Problem.of(UnavailableError(Reason.LINK_DOWN, "x"), "push audit"),),
        incidents=(Problem("log_lost", "y", "z"),),
    )
    return replace(full, **changes)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    """Every part, under the process's name, in a folder that need not be there."""
    written = document()
    written.write(tmp_path / "run" / "status")
    path = tmp_path / "run" / "status" / "agent.json"
    assert StatusDocument.read(path) == written
    assert [p.name for p in path.parent.iterdir()] == ["agent.json"]
    document(ready=False).write(path.parent)
    assert not StatusDocument.read(path).ready


def test_a_problem_says_what_to_do() -> None:
    """Reason, particulars and hint of the catalogue."""
    (problem,) = document().problems
    assert (problem.reason, problem.detail, problem.where) == ("link_down", "x", "push audit")
    assert problem.hint == CATALOGUE[Reason.LINK_DOWN].hint == hint_of("link_down")
    assert hint_of("a_reason_of_the_future") == ""


def test_readers_ignore_what_they_do_not_know(tmp_path: Path) -> None:
    """At the top and in every part: a newer writer may say more; what an older one does not say has a default."""
    path = tmp_path / "agent.json"
    document().write(tmp_path)
    values = json.loads(path.read_text())
    values["news"] = {"x": 1}
    values["broker"]["news"] = 1
    values["stores"][0]["news"] = 1
    del values["peers"]
    del values["stores"][0]["conflict"]
    path.write_text(json.dumps(values))
    expected = document().stores[0]
    found = StatusDocument.read(path)
    assert found.stores[0] == replace(expected, conflict=0)
    assert found.peers == ()


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"5", b'"text"', b"{}", b"\xff\xfe", b'{"name": "agent"}'],
)
def test_what_is_no_status_document(tmp_path: Path, content: bytes) -> None:
    """Says so by its path; the command line prints it."""
    path = tmp_path / "agent.json"
    path.write_bytes(content)
    with pytest.raises(UnavailableError) as refused:
        StatusDocument.read(path)
    assert refused.value.reason is Reason.NOT_READY
    assert str(path) in refused.value.detail
    with pytest.raises(UnavailableError):
        StatusDocument.read(tmp_path / "none.json")


@pytest.mark.parametrize("part", ["stores", "broker", "problems"])
def test_a_part_of_the_wrong_form(tmp_path: Path, part: str) -> None:
    """Not read by halves."""
    path = tmp_path / "agent.json"
    document().write(tmp_path)
    values = json.loads(path.read_text())
    for wrong in (None, 5, [None]):
        path.write_text(json.dumps({**values, part: wrong}))
        with pytest.raises(UnavailableError):
            StatusDocument.read(path)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    """Its fields may mean something else."""
    document(schema=SCHEMA + 1).write(tmp_path)
    with pytest.raises(UnavailableError, match=f"schema {SCHEMA + 1}"):
        StatusDocument.read(tmp_path / "agent.json")


def test_its_age_is_told() -> None:
    """By the wall clock; a document from the future is not older than now."""
    now = int(time.time() * 1000)
    assert document(updated_at_unix_ms=now).age_s < STALE_AFTER_S / 2
    assert document(updated_at_unix_ms=now - 60_000).age_s == pytest.approx(60, abs=5)
    assert document(updated_at_unix_ms=now + 60_000).age_s == 0


def test_a_reader_never_sees_half_a_document(tmp_path: Path) -> None:
    """It is replaced whole, however often."""
    path = tmp_path / "agent.json"
    document(mode_changes=0).write(tmp_path)
    done = threading.Event()
    problems = tuple(Problem("x", "y" * 500, "z") for _ in range(100))

    def write_on() -> None:
        number = 0
        while not done.is_set():
            number += 1
            document(mode_changes=number, problems=problems[: number % 100]).write(tmp_path)

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        seen = [0]
        deadline = time.monotonic() + 60  # a disk that syncs slowly is no fault
        while len(seen) < 300 or (len(set(seen)) < 3 and time.monotonic() < deadline):
            seen.append(StatusDocument.read(path).mode_changes)
    finally:
        done.set()
        writer.join()
    assert seen == sorted(seen)
    assert len(set(seen)) > 1
