# SPDX-License-Identifier: Apache-2.0
"""The development CA: whose eyes its files are for, what survives an interruption, and what a registry takes in."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, DeniedError, UnavailableError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys import devca, files
from appliance.keys.certificates import (
    Authority,
    certificate_der,
    new_device_ca,
    new_hub_ca,
    new_session,
)
from appliance.keys.devca import HUB_CA_FILE, ensure_pki
from appliance.keys.registry import Registry
from appliance.keys.software import PkiFolder, SoftwareKeys
from tests.sessions import calling, serving

PLANT = ZoneId("plant-a")
OTHER = ZoneId("plant-b")
HUB = ZoneId("enterprise")
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def nodes(tmp_path: Path) -> dict[ZoneId, Path]:
    """Two zones of one environment, made."""
    folders = {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}
    ensure_pki(tmp_path / "ca", folders)
    return folders


def test_secrets_are_readable_by_their_owner_alone(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """Every file with a key in it, wherever it lies."""
    holders = [path for path in tmp_path.rglob("*.pem") if b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in holders} == {HUB_CA_FILE, "boundary.pem", "session.pem"}
    assert len(holders) == 5
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert not list(tmp_path.rglob(".*.*"))  # no temporary file stays


def test_a_node_gets_no_key_of_another(nodes: dict[ZoneId, Path]) -> None:
    """The hub CA's key least of all."""
    names = {path.relative_to(nodes[PLANT]).as_posix() for path in nodes[PLANT].rglob("*.pem")}
    assert names == {"hub-ca.pem", "boundary.pem", "session.pem", "zones/plant-a.pem", "zones/enterprise.pem"}


def contents(root: Path) -> dict[Path, bytes]:
    """Every file below a folder."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def check(folders: Mapping[ZoneId, Path]) -> None:
    """The zones accept each other's signatures, and each has a session of its present boundary key."""
    nodes = [SoftwareKeys.load(zone, folder) for zone, folder in folders.items()]
    for one in nodes:
        session = one.session()
        assert session is not None
        session.verify_directly_issued_by(one.boundary.certificate)
        for other in nodes:
            assert other.verify(one.zone, b"bsfg.v1 x", trio.run(one.sign, b"bsfg.v1 x"))


def test_repeating_changes_nothing(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """Keys, certificates and sessions stay as they are."""
    before = contents(tmp_path)
    ensure_pki(tmp_path / "ca", nodes)
    assert contents(tmp_path) == before


def test_a_new_zone_is_told_to_the_others(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """And the others keep their keys."""
    before = PkiFolder(nodes[PLANT]).boundary.read_bytes()
    ensure_pki(tmp_path / "ca", {**nodes, OTHER: tmp_path / "other"})
    assert PkiFolder(nodes[PLANT]).boundary.read_bytes() == before
    keys, other = SoftwareKeys.load(HUB, nodes[HUB]), SoftwareKeys.load(OTHER, tmp_path / "other")
    assert keys.verify(OTHER, b"bsfg.v1 x", trio.run(other.sign, b"bsfg.v1 x"))


@pytest.mark.parametrize("ago", [timedelta(days=2), timedelta(days=5), timedelta(days=9)])
def test_a_session_past_half_its_life_is_renewed(tmp_path: Path, ago: timedelta) -> None:
    """Not earlier."""
    now = datetime.now(UTC)
    ensure_pki(tmp_path / "ca", {PLANT: tmp_path / "plant"}, now=now - ago)
    first = PkiFolder(tmp_path / "plant").session.read_bytes()
    ensure_pki(tmp_path / "ca", {PLANT: tmp_path / "plant"}, now=now)
    renewed = PkiFolder(tmp_path / "plant").session.read_bytes() != first
    assert renewed == (ago > timedelta(days=3.5))


def test_a_session_of_a_former_boundary_key_is_replaced(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """Such a session would be refused by every peer."""
    PkiFolder(nodes[PLANT]).boundary.unlink()
    ensure_pki(tmp_path / "ca", nodes)
    check(nodes)


class Killed(BaseException):
    """The process ended here."""


def test_it_may_be_killed_before_and_after_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next call completes it; what was written stays."""
    folders = {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}
    real = files.write_atomically
    budget = [0]

    def write(path: Path, data: bytes, mode: int = files.PRIVATE) -> None:
        budget[0] -= 1
        if budget[0] < 0:
            raise Killed
        real(path, data, mode)

    monkeypatch.setattr(devca, "write_atomically", write)
    monkeypatch.setattr("appliance.keys.software.write_atomically", write)
    interrupted, kept = 0, dict[Path, bytes]()
    while True:
        budget[0] = 1
        try:
            ensure_pki(tmp_path / "ca", folders)
        except Killed:
            interrupted += 1
        else:
            break
        now = contents(tmp_path)
        assert {path: now[path] for path in kept} == kept
        kept = now
    assert interrupted >= 9
    check(folders)


def test_two_at_once_make_one(tmp_path: Path) -> None:
    """They take turns; the second finds the work of the first."""
    folders = {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}
    failures: list[BaseException] = []

    def ensure() -> None:
        try:
            ensure_pki(tmp_path / "ca", folders)
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise to
            failures.append(error)

    threads = [threading.Thread(target=ensure) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    check(folders)


def refusal(call: Callable[[], object], kind: type[BsfgError]) -> Reason:
    """The reason a call is refused for."""
    with pytest.raises(kind) as caught:
        call()
    return caught.value.reason


def test_a_damaged_key_is_not_replaced_in_silence(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """A new key would be a new identity."""
    path = PkiFolder(nodes[PLANT]).boundary
    path.write_bytes(path.read_bytes()[:100])
    assert refusal(lambda: ensure_pki(tmp_path / "ca", nodes), UnavailableError) == Reason.BAD_ENVIRONMENT
    assert refusal(lambda: SoftwareKeys.load(PLANT, nodes[PLANT]), UnavailableError) == Reason.BAD_ENVIRONMENT


def test_a_key_and_a_certificate_of_different_keys_are_refused() -> None:
    """A file put together by hand."""
    one, two = new_hub_ca(NOW), new_hub_ca(NOW)
    with pytest.raises(ValueError, match="belong together"):
        Authority.from_pem(Authority(one.key, two.certificate).pem())


def test_another_zones_key_is_refused(nodes: dict[ZoneId, Path]) -> None:
    """A node that was given the wrong folder says so at start."""
    assert refusal(lambda: SoftwareKeys.load(HUB, nodes[PLANT]), DeniedError) == Reason.BAD_CERTIFICATE


def test_a_registry_takes_only_what_the_hub_ca_signed_for_that_zone(tmp_path: Path) -> None:
    """Another CA's, another zone's, a session, and the hub CA itself are refused."""
    hub, rogue = new_hub_ca(NOW), new_hub_ca(NOW)
    good = new_device_ca(hub, PLANT, NOW)
    assert Registry(hub.certificate, {PLANT: (good.certificate,)}).is_boundary_key(
        PLANT, certificate_der(good.certificate)
    )
    wrong = [
        new_device_ca(rogue, PLANT, NOW).certificate,
        new_device_ca(hub, OTHER, NOW).certificate,
        new_session(good, PLANT, NOW).certificate,
        hub.certificate,
    ]
    for certificate in wrong:
        reason = refusal(lambda made=certificate: Registry(hub.certificate, {PLANT: (made,)}), DeniedError)  # type: ignore[misc]
        assert reason == Reason.BAD_CERTIFICATE


def test_a_registry_names_the_file_it_cannot_read(nodes: dict[ZoneId, Path]) -> None:
    """So that somebody can mend it."""
    (PkiFolder(nodes[PLANT]).zones / "Not A Zone.pem").write_bytes(b"")
    with pytest.raises(DeniedError, match=r"Not A Zone\.pem"):
        SoftwareKeys.load(PLANT, nodes[PLANT])


def test_a_receipt_signed_with_a_former_key_stays_valid(nodes: dict[ZoneId, Path], tmp_path: Path) -> None:
    """As long as the former device CA stays registered."""
    former = SoftwareKeys.load(PLANT, nodes[PLANT])
    signature = trio.run(former.sign, b"bsfg.v1 x")
    hub_ca = Authority.from_pem((tmp_path / "ca" / HUB_CA_FILE).read_bytes())
    newer = new_device_ca(hub_ca, PLANT, datetime.now(UTC))
    registered = PkiFolder(nodes[HUB]).zones / "plant-a.pem"
    registered.write_bytes(newer.pem().split(b"-----END PRIVATE KEY-----\n")[1] + registered.read_bytes())
    hub = SoftwareKeys.load(HUB, nodes[HUB])
    assert hub.verify(PLANT, b"bsfg.v1 x", signature)
    successor = SoftwareKeys(PLANT, former.folder, newer, hub.registry)
    assert hub.verify(PLANT, b"bsfg.v1 x", trio.run(successor.sign, b"bsfg.v1 x"))


def test_without_a_session_there_is_no_tls(nodes: dict[ZoneId, Path]) -> None:
    """And the message names the file."""
    plant = SoftwareKeys.load(PLANT, nodes[PLANT])
    plant.folder.session.unlink()
    assert plant.session() is None
    assert refusal(lambda: serving(plant), UnavailableError) == Reason.NO_SESSION
    assert refusal(lambda: calling(plant), UnavailableError) == Reason.NO_SESSION


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no temporary one."""
    path = tmp_path / "file"
    files.write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        files.write_atomically(path, b"new")
    assert contents(tmp_path) == {path: b"old"}
