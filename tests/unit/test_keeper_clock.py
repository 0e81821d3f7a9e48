# SPDX-License-Identifier: Apache-2.0
"""Boundary time in the keeper: its files, whose word counts, and what an enrolment changes. No TPM runs here."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.keys.boundary_time import BUILT_UNIX_MS, TpmClock
from appliance.keys.certificates import certificate_pem, new_device_ca
from appliance.keys.denied import Denial, render_denied
from appliance.keys.folder import PkiFolder
from appliance.keys.keeper.clock import KeeperClock
from tests.keepers import HUB, Site

TPM = TpmClock(1000, 1, 0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A box that was given the hub CA, and nothing else yet."""
    site = Site(tmp_path, "swtpm:port=1")
    for folder in (site.config.run_dir, site.config.state_dir):
        folder.mkdir(parents=True, exist_ok=True)
    return site


def take(clock: KeeperClock, site: Site, **changes: object) -> int:
    """Ask and be told."""
    token = site.token(clock.nonce(), **changes)  # type: ignore[arg-type]
    return clock.take(token, time.clock_gettime_ns(time.CLOCK_BOOTTIME), TPM)


def test_a_keeper_that_starts_again_knows_the_time(site: Site) -> None:
    """Within one boot; without the file of this boot only the floor."""
    clock = KeeperClock(site.config)
    assert clock.unix_ms() is None
    assert clock.floor_unix_ms() == BUILT_UNIX_MS
    told = take(clock, site)
    again = KeeperClock(site.config)
    assert 0 <= (again.unix_ms() or 0) - told < 5000
    (site.config.run_dir / "boundary-time.json").unlink()
    rebooted = KeeperClock(site.config)
    assert rebooted.unix_ms() is None
    assert rebooted.floor_unix_ms() >= told - 5000


def test_whose_word_counts(site: Site) -> None:
    """At first any that the hub CA signed for the hub; then those registered; never a denied one."""
    clock, folder = KeeperClock(site.config), PkiFolder(site.config.pki_dir)
    newer = new_device_ca(site.hub_ca, HUB, datetime.now(UTC))
    take(clock, site, key=newer)
    folder.zone(HUB).write_bytes(certificate_pem(site.hub_key.certificate))
    take(clock, site)
    with pytest.raises(DeniedError, match="registered boundary key"):
        take(clock, site, key=newer)
    denial = Denial.of(site.hub_key.certificate, HUB, "stolen", 1)
    folder.denied.write_bytes(render_denied([denial]))
    with pytest.raises(DeniedError, match="was denied"):
        take(clock, site)
    folder.zone(HUB).write_bytes(certificate_pem(site.hub_key.certificate) + certificate_pem(newer.certificate))
    take(clock, site, key=newer)
    with pytest.raises(DeniedError, match="registered boundary key"):
        take(clock, site)
    folder.denied.write_bytes(b"{}")
    with pytest.raises(DeniedError, match="bad_time_token"):
        take(clock, site, key=newer)


def test_an_enrolment_lowers_the_floor_and_leaves_the_time(site: Site) -> None:
    """A box that started while its hub was ten years ahead comes back with the next token."""
    clock = KeeperClock(site.config)
    now_ms = time.time_ns() // 1_000_000
    take(clock, site, unix_ms=now_ms + 10 * 365 * 86_400_000)
    with pytest.raises(DeniedError, match="before what is known"):
        take(clock, site)
    clock.forget_floor()
    assert clock.unix_ms() is not None
    assert KeeperClock(site.config).floor_unix_ms() == BUILT_UNIX_MS
    assert abs(take(clock, site) - now_ms) < 5000


def test_the_hub_s_own_clock_is_the_time(tmp_path: Path) -> None:
    """It takes no tokens."""
    site = Site(tmp_path, "swtpm:port=1", zone=HUB)
    clock = KeeperClock(site.config)
    assert abs((clock.unix_ms() or 0) - time.time_ns() // 1_000_000) < 5000
    with pytest.raises(RefusedError, match="its own clock"):
        take(clock, site)
