# SPDX-License-Identifier: Apache-2.0
"""The deny list has one form; the registry follows its folder, whole or not at all; a denied key's receipts stay."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from appliance.boundary.errors import BsfgError, RefusedError
from appliance.boundary.names import ZoneId
from appliance.boundary.reasons import Reason
from appliance.keys.certificates import certificate_der, certificate_pem, new_device_ca, new_hub_ca
from appliance.keys.denied import Denial, allow, deny, parse_denied, read_denied, render_denied
from appliance.keys.devca import ensure_pki
from appliance.keys.folder import PkiFolder
from appliance.keys.registry import LiveRegistry, Registry
from appliance.keys.software import SoftwareKeys

PLANT, HUB, OTHER = ZoneId("plant-a"), ZoneId("enterprise"), ZoneId("plant-b")
A, B = Denial("11" * 32, PLANT, "stolen", 1), Denial("22" * 32, OTHER, "", 2**53 - 1)


@pytest.fixture
def nodes(tmp_path: Path) -> dict[ZoneId, Path]:
    """Two zones that know each other."""
    folders = {PLANT: tmp_path / "plant", HUB: tmp_path / "hub"}
    ensure_pki(tmp_path / "ca", folders)
    return folders


def test_a_deny_list_is_read_as_it_was_written() -> None:
    """Whatever the order of entry."""
    assert parse_denied(render_denied([A, B])) == parse_denied(render_denied([B, A])) == (A, B)
    assert parse_denied(render_denied([])) == ()


TEXT = render_denied([A, B])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}\n",
        b"[]\n",
        TEXT[:-1],
        TEXT + b"\n",
        TEXT.replace(b",", b", ", 1),
        TEXT.replace(b"bsfg-denied-1", b"bsfg-denied-2"),
        TEXT.replace(b'"stolen"', b"7"),
        TEXT.replace(b'"stolen"', b'"sto\\u0007len"'),
        TEXT.replace(b'"stolen"', b'"' + b"x" * 257 + b'"'),
        TEXT.replace(b'"plant-a"', b'"Plant A"'),
        TEXT.replace(b'"plant-a"', b'"all"'),
        TEXT.replace(b"11" * 32, b"11" * 31),
        TEXT.replace(b"11" * 32, b"AA" * 32),
        TEXT.replace(b"11" * 32, b"33" * 32),
        TEXT.replace(b"11" * 32, b"22" * 32),
        TEXT.replace(b'"unix_ms":1', b'"unix_ms":-1'),
        TEXT.replace(b'"unix_ms":1', b'"unix_ms":true'),
        TEXT.replace(b'"unix_ms":1', b'"unix_ms":1.5'),
        TEXT.replace(b'"unix_ms":1', b'"unix_ms":1,"who":"x"'),
        TEXT.replace(b',"unix_ms":1', b""),
        TEXT.replace(b'"denied":[', b'"denied":[7,'),
    ],
)
def test_another_text_is_no_deny_list(text: bytes) -> None:
    """Not another form of the same, not an unknown field, not an entry twice."""
    assert text != TEXT
    with pytest.raises(RefusedError) as refused:
        parse_denied(text)
    assert refused.value.reason == Reason.BAD_DOCUMENT


def test_denials_are_added_and_taken_back(tmp_path: Path) -> None:
    """An entry that stands there stays as it is; a file that is no deny list is left alone."""
    path = tmp_path / "denied.json"
    assert read_denied(path) == ()
    deny(path, A)
    deny(path, B, Denial(A.certificate, PLANT, "again", 9))
    assert read_denied(path) == (A, B)
    allow(path, [A.certificate, "99" * 32])
    assert read_denied(path) == (B,)
    path.write_bytes(b"{}")
    with pytest.raises(RefusedError):
        deny(path, A)
    assert path.read_bytes() == b"{}"


def test_a_denied_key_proves_nothing_and_its_receipts_stay_good(nodes: dict[ZoneId, Path]) -> None:
    """The registry still knows whose it was."""
    plant, hub = SoftwareKeys.load(PLANT, nodes[PLANT]), LiveRegistry(PkiFolder(nodes[HUB]))
    signature = trio.run(plant.sign, b"bsfg.v1 x")
    own = certificate_der(plant.boundary.certificate)
    hub.refresh()
    assert hub.denial(own) == ""
    deny(hub.folder.denied, Denial.of(plant.boundary.certificate, PLANT, "sold", 1))
    assert hub.refresh()
    assert hub.denial(own) == "sold"
    assert hub.authorities(PLANT) == (own,)
    assert hub.verifies(PLANT, b"bsfg.v1 x", signature)
    assert hub.current is not None
    assert [hub.current.is_boundary_key(zone, own) for zone in (PLANT, HUB)] == [True, False]
    assert hub.current.trusted() == list(hub.current.device_cas[HUB])


def break_zone(folder: PkiFolder) -> None:
    """A device CA that another hub signed."""
    rogue = new_device_ca(new_hub_ca(datetime.now(UTC)), PLANT, datetime.now(UTC))
    folder.zone(PLANT).write_bytes(certificate_pem(rogue.certificate))


def break_list(folder: PkiFolder) -> None:
    """A deny list that somebody edited."""
    folder.denied.write_bytes(b"{}")


def lose_hub_ca(folder: PkiFolder) -> None:
    """The root is gone."""
    folder.hub_ca.unlink()


def standing(registry: LiveRegistry) -> tuple[BsfgError | None, Registry | None]:
    """What is wrong, and what counts."""
    return registry.problem, registry.current


@pytest.mark.parametrize("damage", [break_zone, break_list, lose_hub_ca])
def test_bad_files_change_nothing_and_are_a_problem(
    nodes: dict[ZoneId, Path], damage: Callable[[PkiFolder], None]
) -> None:
    """The last good registry counts until they are good again; a start with bad files proves nobody."""
    folder = PkiFolder(nodes[HUB])
    registry = LiveRegistry(folder)
    assert registry.refresh()
    good, files = registry.current, {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    damage(folder)
    assert registry.refresh()
    assert registry.current is good
    assert isinstance(registry.problem, BsfgError)
    fresh = LiveRegistry(folder)
    fresh.refresh()
    assert (fresh.current, fresh.hub_ca, fresh.authorities(PLANT)) == (None, None, ())
    folder.denied.unlink(missing_ok=True)
    for path, content in files.items():
        path.write_bytes(content)
    assert registry.refresh()
    assert standing(registry) == (None, good)


def test_the_folder_is_read_again_only_when_it_changed(nodes: dict[ZoneId, Path]) -> None:
    """A replaced file of the same size and time, a new one and one that went are changes."""
    folder = PkiFolder(nodes[HUB])
    registry = LiveRegistry(folder)
    assert [registry.refresh() for _ in range(3)] == [True, False, False]
    path, state = folder.zone(PLANT), folder.zone(PLANT).stat()
    twin = path.with_suffix(".new")
    twin.write_bytes(path.read_bytes())
    os.utime(twin, ns=(state.st_atime_ns, state.st_mtime_ns))
    twin.replace(path)
    assert [registry.refresh() for _ in range(2)] == [True, False]
    hidden = path.with_suffix(".gone")
    path.rename(hidden)
    assert registry.refresh()
    assert registry.authorities(PLANT) == ()
    hidden.rename(path)
    assert registry.refresh()
    assert len(registry.authorities(PLANT)) == 1


async def test_a_change_is_told_within_two_seconds(nodes: dict[ZoneId, Path], nursery: trio.Nursery) -> None:
    """To whoever waits for it."""
    registry = LiveRegistry(PkiFolder(nodes[HUB]))
    changed = registry.changed.next()
    nursery.start_soon(registry.run)
    with trio.fail_after(2):
        await changed.wait()
    changed = registry.changed.next()
    deny(registry.folder.denied, A)
    with trio.fail_after(2):
        await changed.wait()
    assert registry.current is not None
    assert registry.current.denied == (A,)
