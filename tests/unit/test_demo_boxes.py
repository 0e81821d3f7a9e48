# SPDX-License-Identifier: Apache-2.0
"""What the demo says of keys is what status documents and the hub's record say, summed up over restarts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.boundary.errors import UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.dev.demo.boxes import LatchAct, Sightings
from appliance.dev.environment import Environment
from appliance.dev.keeping import KeeperDocument, keeper_of
from appliance.dev.layout import PLANT, ZONES, KeysChoice, Layout
from appliance.keys.keeper.port import KeeperState, KeeperStatus, SessionInfo
from appliance.keys.keeper.values import to_json
from appliance.node.status import BoundaryStatus, StatusDocument


def keeper_document(zone: ZoneId, *serials: str, pid: int = 7) -> dict[str, Any]:
    """As a keeper writes it."""
    sessions = {
        name: SessionInfo(Path(f"{name}.pem"), 5.0, serial)
        for name, serial in zip(("agent", "control"), serials, strict=True)
    }
    status = KeeperStatus(KeeperState.READY, "swtpm", zone, 1, None, 0, sessions, 2, 99)
    return {"pid": pid, "updated_at_unix_ms": 1_000, **to_json(status), "later": "versions say more"}


def node_document(zone: ZoneId, pid: int, accepted: int, refused: int) -> StatusDocument:
    """As a node writes it."""
    boundary = BoundaryStatus(handshakes_accepted=accepted, handshakes_refused={"bad_certificate": refused})
    return StatusDocument("x", zone, "1", pid, True, "normal", 0, 0, 0, "swtpm", boundary=boundary)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment with no files but status folders."""
    environment = Environment.generate(Layout.at(tmp_path), KeysChoice.SWTPM)
    for zone in ZONES:
        environment.layout.zone(zone).status.mkdir(parents=True)
    return environment


def record(*, certified: bool) -> Any:
    """What the hub has of a box, as far as the demo looks."""
    request = SimpleNamespace(policy=SimpleNamespace(is_of=lambda _: certified), boundary_public=b"")
    return SimpleNamespace(vendor="CN=vendor", counter=3, request=request)


def test_what_was_seen_is_summed_up(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions by their serials, handshakes by process: a restart loses none and counts none twice."""
    monkeypatch.setattr("appliance.dev.demo.boxes.enrolled_record", lambda *_: record(certified=True))
    files, seen = environment.layout.zone(PLANT), Sightings(environment)
    seen.look()  # nothing is there yet
    for serials, pid, counts in ((("a", "b"), 1, (2, 0)), (("a", "c"), 1, (3, 1)), (("d", "e"), 2, (1, 0))):
        files.keeper_document.write_text(json.dumps(keeper_document(PLANT, *serials)))
        (document := node_document(PLANT, pid, *counts)).write(files.status)
        (files.status / f"{document.name}.json").replace(files.status_document)
        seen.look()
        seen.look()
    keys = {each.zone: each for each in seen.zones()}
    plant = keys[PLANT]
    assert (plant.held_by, plant.vendor, plant.certified, plant.counter) == ("swtpm", "CN=vendor", True, 3)
    assert (plant.renewals, plant.accepted, plant.refused) == (3, 4, 1)  # a and b came first; c, d and e followed
    assert plant.proven
    assert not any(each.proven for zone, each in keys.items() if zone != PLANT)  # of which nothing was seen


def test_what_the_hub_did_not_prove_is_not_claimed(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim follows the record."""
    monkeypatch.setattr("appliance.dev.demo.boxes.enrolled_record", lambda *_: record(certified=False))
    assert not any(replace(keys, renewals=5).proven for keys in Sightings(environment).zones())


@pytest.mark.parametrize("change", [{"counter": 0}, {"silent_s": 0.0}, {"stored": 0}, {"back_s": 0.0}])
def test_each_part_of_the_latch_counts(change: dict[str, Any]) -> None:
    """Locked, silent, working locally, back."""
    good = LatchAct(2, 9.0, 100, 1.0)
    assert good.held
    assert not replace(good, **change).held


def test_a_keepers_document(tmp_path: Path) -> None:
    """Fields of later versions are left out; what is no such document is an error with its name."""
    path = tmp_path / "keeper.json"
    path.write_text(json.dumps(keeper_document(PLANT, "a", "b", pid=12)))
    found = KeeperDocument.read(path)
    assert (found.pid, found.status.state, found.status.sessions["control"].serial) == (12, KeeperState.READY, "b")
    assert found.age_s > 1000
    for text in ("", "[]", "{}", '{"pid": 1}'):
        path.write_text(text)
        with pytest.raises(UnavailableError, match=r"keeper\.json") as caught:
            KeeperDocument.read(path)
        assert caught.value.reason is Reason.KEEPER_UNAVAILABLE


def test_keys_in_files_have_no_keeper(environment: Environment) -> None:
    """Nobody is asked in vain."""
    keeper_of(environment, PLANT)
    with pytest.raises(UnavailableError, match="are files"):
        keeper_of(replace(environment, keys=KeysChoice.SOFTWARE), PLANT)
