# SPDX-License-Identifier: Apache-2.0
"""The folder of evidence: nothing is written twice, whole pairs only, room when the disk is full, and a limit."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from appliance.watchdog.evidence.bundle import BUNDLE_BYTES, SEAL_BYTES, digest_of
from appliance.watchdog.evidence.store import RESERVE_BYTES, EvidenceStore


@pytest.fixture
def store(tmp_path: Path) -> EvidenceStore:
    """An empty one."""
    return EvidenceStore(tmp_path / "evidence", kept=3)


def test_what_is_added_stays_in_order(store: EvidenceStore) -> None:
    """Also after a restart; the same bytes twice are two bundles."""
    assert (store.all(), store.latest(), store.next_number()) == ([], None, 1)
    digests = [store.add(each, b"seal " + each) for each in (b"one", b"two", b"two")]
    again = EvidenceStore(store.folder, kept=3)
    assert [each.number for each in again.all()] == [1, 2, 3]
    assert digests[1] == digests[2] == digest_of(b"two")
    latest = again.latest()
    assert latest is not None
    assert latest.read() == (b"two", b"seal two")
    found = again.find(digest_of(b"one"))
    assert found is not None
    assert found.read() == (b"one", b"seal one")
    assert again.find(digest_of(b"none")) is None
    assert {path.stat().st_mode & 0o777 for path in store.folder.iterdir()} == {0o440}


def test_nothing_is_written_over(store: EvidenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by a number that somebody foresaw: a file or a link in the way stops it."""
    store.add(b"one", b"seal")
    monkeypatch.setattr(EvidenceStore, "next_number", lambda _: 2)
    target = store.folder.parent / "elsewhere"
    target.write_bytes(b"kept")
    name = f"0002-{digest_of(b'two').hex()[:16]}"
    for ending in ("seal.json", "seal.partial"):
        trap = store.folder / f"{name}.{ending}"
        trap.symlink_to(target)
        with pytest.raises(FileExistsError):
            store.add(b"two", b"seal")
        trap.unlink(missing_ok=True)
    assert target.read_bytes() == b"kept"
    assert [each.number for each in store.all()] == [1]


def test_a_seal_without_its_bundle_counts_for_nothing(store: EvidenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The power fails between the two; the number is not used again."""
    link, calls = os.link, []

    def failing(source: Path, target: Path) -> None:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, "power")
        link(source, target)

    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(OSError, match="power"):
        store.add(b"one", b"seal")
    assert store.all() == []
    assert store.next_number() == 2
    monkeypatch.setattr(os, "link", link)
    store.add(b"one", b"seal")
    assert [each.number for each in store.all()] == [2]


def test_a_full_disk_has_room_for_one_more(store: EvidenceStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was kept before; without it, the disk's error is told."""
    store.reserve()
    reserve = store.folder / "reserve"
    assert reserve.stat().st_size == RESERVE_BYTES
    fsync = os.fsync

    def full(descriptor: int) -> None:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "full")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    store.add(b"one", b"seal")
    assert not reserve.exists()
    assert [each.read()[0] for each in store.all()] == [b"one"]
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(OSError, match="full"):
        store.add(b"two", b"seal")
    monkeypatch.setattr(os, "fsync", fsync)
    assert not list(store.folder.glob("*.partial"))


def test_the_oldest_go_beyond_the_limit(store: EvidenceStore) -> None:
    """Numbers go on, so it shows."""
    for number in range(5):
        store.add(b"%d" % number, b"seal")
    assert [each.number for each in store.all()] == [3, 4, 5]
    assert len(list(store.folder.iterdir())) == 6


def test_what_is_damaged_or_too_long_is_refused(store: EvidenceStore) -> None:
    """By name and digest."""
    store.add(b"one", b"seal")
    kept = store.all()[0]
    kept.bundle.chmod(0o640)
    kept.bundle.write_bytes(b"two")
    with pytest.raises(RefusedError, match="bad_evidence"):
        kept.read()
    for bundle, seal in ((b"x" * (BUNDLE_BYTES + 1), b""), (b"", b"x" * (SEAL_BYTES + 1))):
        with pytest.raises(RefusedError, match="bad_input"):
            store.add(bundle, seal)
