# SPDX-License-Identifier: Apache-2.0
"""What a technician brings on a USB stick: when it is read, what is taken and refused. systemd's part is simulated."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import BsfgError
from appliance.boundary.names import ProducerId, ZoneId
from appliance.boundary.reasons import Reason
from appliance.box import carry, site, stick
from appliance.box.applying import Applying
from appliance.box.layout import BoxLayout
from appliance.box.stick import AT_START_S, BROUGHT, CARRY, CARRY_MOUNT, DRIVER, MOUNT, Came, StickState
from appliance.keys.enrolment.voucher import new_voucher
from appliance.keys.operators import sign
from appliance.keys.tpm.public import sha256
from appliance.node.documents import write_status
from appliance.node.suspensions import FileSuspensions
from appliance.site.document import DOMAIN, unsigned
from appliance.site.store import SiteStore
from tests import sites
from tests.unit.test_quarantine_ladder import release_of
from tests.unit.test_watchdog_desk import Box as Watched

LATE = AT_START_S + 1
UNITS = Path(__file__).resolve().parent.parent.parent / "image/mkosi.extra/usr/lib/systemd/system"


@dataclass
class Machine:
    """A box, and systemd's part. :param stick: what is on it. :param broken: units that fail."""

    at: BoxLayout
    stick: Path
    broken: set[str] = field(default_factory=set)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    has_driver: bool = False

    def systemctl(self, *words: str) -> bool:
        """Start and stop the driver and the mount."""
        self.asked.append(words)
        verb, unit = words[0], words[-1]
        if verb == "start" and unit in self.broken:
            return False
        if unit == DRIVER:
            self.has_driver = verb == "start"
        elif unit == MOUNT and verb == "start":
            assert self.has_driver
            self.at.stick.symlink_to(self.stick)
        elif unit == MOUNT:
            self.at.stick.unlink(missing_ok=True)
        elif unit == CARRY_MOUNT and verb == "start":
            assert self.has_driver
            assert not self.at.stick.exists(), "it is read and written one after the other"
            self.at.carry.symlink_to(self.stick)
        elif unit == CARRY_MOUNT:
            self.at.carry.unlink(missing_ok=True)
        elif unit == CARRY:
            return self._carry()
        return True

    def _carry(self) -> bool:
        """The other program."""
        try:
            carry.run(self.at)
        except BsfgError:
            return False
        return True

    def put_in(self, uptime_s: float = 60.0) -> dict[str, Any]:
        """The stick; the status document afterwards. Whatever happens, driver and mount are gone."""
        stick.bring(self.at, self.systemctl, uptime_s, lambda _: None)
        assert not self.has_driver
        assert not self.at.stick.exists()
        assert not self.at.carry.is_symlink()
        return document(self.at, "stick")

    @property
    def restarted(self) -> bool:
        """Whether the box was told to start anew."""
        return ("--no-block", "reboot") in self.asked

    def write(self, name: str, data: bytes) -> None:
        """Put a file onto the stick."""
        path = self.stick / "bsfg" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def document(at: BoxLayout, name: str) -> dict[str, Any]:
    """A status document."""
    values: dict[str, Any] = json.loads(at.status_document(name).read_bytes())
    return values


@pytest.fixture
def box(tmp_path: Path) -> Machine:
    """One that was never configured, and an empty stick."""
    at = BoxLayout(tmp_path / "box")
    (tmp_path / "stick").mkdir()
    site.run(at, Applying(at))
    return Machine(at, tmp_path / "stick")


@pytest.fixture
def configured(box: Machine) -> Machine:
    """With version 1 in force."""
    SiteStore(box.at.site).offer(sites.signed(1), "site.toml")
    site.run(box.at, Applying(box.at))
    return box


def in_force(box: Machine) -> int:
    """The version."""
    signed = SiteStore(box.at.site).load()
    return 0 if signed is None else signed.config.version


# -- when --------------------------------------------------------------------------------------------------------------


def test_a_box_without_a_configuration_takes_one_at_any_time(box: Machine) -> None:
    """And starts anew, for a configuration is applied at the start."""
    box.write("site.toml", sites.signed(1))
    told = box.put_in(10 * LATE)
    assert told["state"] == StickState.RESTARTING
    assert told["files"][0]["came"] == Came.TAKEN
    assert (in_force(box), box.restarted) == (1, True)
    assert document(box.at, "site")["state"] == "accepted"


def test_a_stick_that_nobody_expects_gets_no_driver(configured: Machine) -> None:
    """Later than five minutes after it was switched on, systemd is asked for nothing, whatever is on the stick."""
    configured.write("site.toml", sites.signed(2))
    assert configured.put_in(LATE)["state"] == StickState.IGNORED
    assert (configured.asked, in_force(configured)) == ([], 1)
    assert configured.put_in(AT_START_S)["state"] == StickState.RESTARTING
    assert in_force(configured) == 2


def test_producers_are_lifted_by_a_stick_and_without_a_restart(configured: Machine, tmp_path: Path) -> None:
    """While one is suspended a stick is expected; what it asks for stands where the agent reads it."""
    suspensions = FileSuspensions(tmp_path / "agent", tmp_path / "no-boot-id", configured.at.status)

    def agent_says() -> None:
        told = [{"reason": "producer_suspended", "detail": each.detail} for each in suspensions.all()]
        write_status(configured.at.status, "agent", {"problems": told})

    async def suspend(*names: str) -> None:
        for name in names:
            await suspensions.suspend(ProducerId(name), "id a")
        agent_says()

    configured.write("lift-producers", b"press-4\n\n press-9\n")
    assert configured.put_in(LATE)["state"] == StickState.IGNORED, "nobody is suspended"
    trio.run(suspend, "press-4", "pump-2")
    told = configured.put_in(LATE)
    assert (told["state"], told["files"][0]["came"], configured.restarted) == (StickState.READ, Came.TAKEN, False)
    assert "press-4, press-9: served again" in told["detail"]
    suspensions.lift_asked()
    assert [each.producer for each in suspensions.all()] == ["pump-2"]
    configured.write("lift-producers", b"")
    assert "all producers" in configured.put_in(LATE)["detail"]
    suspensions.lift_asked()
    assert suspensions.all() == ()
    agent_says()
    assert configured.put_in(LATE)["state"] == StickState.IGNORED, "it is lifted, and no stick is expected any more"


@pytest.mark.parametrize("data", [b"a b\n", b"../x", "pr\u00e9sse".encode(), b"x" * 4097])
def test_what_names_no_producers_lifts_nobody(configured: Machine, data: bytes) -> None:
    """And says so."""
    configured.write("lift-producers", data)
    told = configured.put_in()
    assert (told["files"][0]["came"], "lift" in told) == (Came.REFUSED, False)


def test_a_stick_that_stays_in_is_no_loop(configured: Machine) -> None:
    """The next start finds what it has already, and goes on."""
    configured.write("site.toml", sites.signed(2))
    assert configured.put_in()["state"] == StickState.RESTARTING
    configured.asked.clear()
    told = configured.put_in()
    assert (told["state"], told["files"][0]["came"], configured.restarted) == (StickState.READ, Came.KNOWN, False)


def test_a_damaged_configuration_is_a_reason_to_expect_one(configured: Machine) -> None:
    """Such a box has nothing in force."""
    for path in (configured.at.site / "site.toml", configured.at.site / "previous.toml"):
        path.write_bytes(b"damaged")
    configured.write("site.toml", sites.signed(2))
    assert configured.put_in(LATE)["state"] == StickState.RESTARTING
    assert in_force(configured) == 2


# -- what --------------------------------------------------------------------------------------------------------------


def changed(data: bytes) -> bytes:
    """With another zone in it, after it was signed."""
    return data.replace(b"plant-a", b"plant-b", 1)


REFUSED: dict[str, tuple[Callable[[], bytes], Reason]] = {
    "older": (lambda: sites.signed(1, name="ipv6"), Reason.SITE_ROLLBACK),
    "of another signer": (lambda: sites.signed(2, by="stranger"), Reason.SITE_FOREIGN),
    "altered": (lambda: changed(sites.signed(2)), Reason.SITE_UNSIGNED),
    "unsigned": (lambda: sites.example("two-nics").encode(), Reason.SITE_UNSIGNED),
    "empty": (lambda: b"", Reason.SITE_UNSIGNED),
    "no text": (lambda: bytes(range(256)), Reason.SITE_UNSIGNED),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_the_old_one_and_says_why(configured: Machine, name: str) -> None:
    """On both documents that the page reads; and the box does not start anew."""
    made, reason = REFUSED[name]
    configured.write("site.toml", made())
    told = configured.put_in()
    assert (told["state"], told["files"][0]["came"], told["files"][0]["reason"]) == (
        *(StickState.READ, Came.REFUSED),
        reason,
    )
    refused = document(configured.at, "site")["refused"]
    assert refused["reason"] == reason
    assert refused["detail"].startswith("site.toml on the USB stick")
    assert (in_force(configured), configured.restarted) == (1, False)
    configured.write("site.toml", sites.signed(2))
    assert configured.put_in()["state"] == StickState.RESTARTING


def test_a_mistake_is_named_with_its_line(configured: Machine) -> None:
    """Signed by the right key, by a tool of another version, and not valid all the same."""
    body = unsigned(sites.signed(2)).replace(b"[site]\n", b"[site]\ncolour = 7\n", 1)
    configured.write("site.toml", body + sites.ending(sites.public("signer"), sign(sites.key("signer"), DOMAIN + body)))
    told = configured.put_in()
    line = body[: body.index(b"colour")].count(b"\n") + 1
    assert told["files"][0]["reason"] == Reason.BAD_SITE
    assert f"site.toml on the USB stick, line {line}: " in document(configured.at, "site")["refused"]["detail"]


def test_a_voucher_is_handed_to_enrolment(configured: Machine) -> None:
    """Without a new start: it is read for the next attempt. What is no voucher does not take its place."""
    good = new_voucher(ec.generate_private_key(ec.SECP256R1()), ZoneId("plant-a"), "ab" * 32, 2**40).render()
    configured.write("voucher.json", good)
    told = configured.put_in()
    assert (told["state"], told["files"][0]["came"], configured.restarted) == (StickState.READ, Came.TAKEN, False)
    assert configured.at.voucher.read_bytes() == good
    configured.write("voucher.json", good.replace(b"plant-a", b"plant a"))
    assert configured.put_in()["files"][0]["came"] == Came.REFUSED
    assert configured.at.voucher.read_bytes() == good


def test_a_voucher_that_came_with_a_configuration_is_there_after_the_start(box: Machine) -> None:
    """The box starts at once for the configuration; what was in memory only is gone then."""
    good = new_voucher(ec.generate_private_key(ec.SECP256R1()), ZoneId("plant-a"), "ab" * 32, 2**40).render()
    box.write("site.toml", sites.signed(1))
    box.write("voucher.json", good)
    assert box.put_in()["state"] == StickState.RESTARTING
    shutil.rmtree(box.at.run)
    site.run(box.at, Applying(box.at))
    assert box.at.voucher.read_bytes() == good


async def test_a_release_is_handed_to_the_watchdog(configured: Machine) -> None:
    """A box in quarantine expects it at any time; a wrong one is refused by its reason, the right one restarts the box.

    The stick that stays in is then known; and a watchdog that is away is told.
    """
    at = configured.at
    at.watchdog_run.mkdir(parents=True)
    watched = Watched.make(at.watchdog_run)

    async def put_in() -> dict[str, Any]:
        return await trio.to_thread.run_sync(configured.put_in, 10 * LATE)

    def tell(state: str) -> None:
        at.status_document("watchdog").write_text(json.dumps({"state": state}))

    tell("open")
    configured.write("release.json", b"{}\n")
    assert (await put_in())["state"] == StickState.IGNORED
    tell("quarantined")
    assert (await put_in())["files"][0]["reason"] == Reason.WATCHDOG_UNAVAILABLE
    async with watched.running():
        assert (await put_in())["files"][0]["came"] == Came.KNOWN, "it is in no quarantine"
        watched.watchdog.enter("for the test")
        await watched.completed()
        for wrong in (b"{}\n", b"\xff", release_of(2, watched.taker.digest(0), (0,)), release_of(3, sha256(b"?"))):
            configured.write("release.json", wrong)
            (entry,) = (await put_in())["files"]
            assert (entry["came"], entry["reason"], configured.restarted) == (Came.REFUSED, Reason.BAD_RELEASE, False)
        configured.write("release.json", release_of(2, watched.taker.digest(0)))
        told = await put_in()
        assert (told["state"], told["files"][0]["came"]) == (StickState.RESTARTING, Came.TAKEN)
        assert (configured.restarted, watched.lock.locked, watched.lease.is_dark) == (True, False, True)
        configured.asked.clear()
        assert (await put_in())["files"][0]["came"] == Came.KNOWN
        assert not configured.restarted


def large(path: Path) -> None:
    """More than any document has."""
    path.write_bytes(b"#" * (1 << 20))


def link(path: Path) -> None:
    """To a file of the box; FAT has none, but a name is not believed."""
    path.symlink_to("/etc/passwd")


ODD = {"large": large, "link": link, "pipe": os.mkfifo, "folder": os.mkdir}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", [each.name for each in BROUGHT])
def test_what_is_no_file_of_a_fit_size_is_not_read(configured: Machine, name: str, kind: str) -> None:
    """And what stands beside it is taken all the same."""
    (configured.stick / "bsfg").mkdir()
    ODD[kind](configured.stick / "bsfg" / name)
    other = next(each.name for each in BROUGHT if each.name not in {name, "release.json"})
    good = new_voucher(ec.generate_private_key(ec.SECP256R1()), ZoneId("plant-a"), "ab" * 32, 2**40).render()
    configured.write(other, good if other == "voucher.json" else sites.signed(2))
    came = {entry["file"].split()[0]: entry["came"] for entry in configured.put_in()["files"]}
    assert came == {f"bsfg/{name}": Came.REFUSED, f"bsfg/{other}": Came.TAKEN}


def test_an_empty_stick_says_what_is_missing(configured: Machine) -> None:
    """The names that are looked for; and nothing else on it is read."""
    configured.write("other.toml", sites.signed(2))
    (configured.stick / "site.toml").write_bytes(sites.signed(2))
    told = configured.put_in()
    assert (told["state"], told["files"]) == (StickState.READ, [])
    assert told["detail"] == (
        "there is no bsfg/site.toml and no bsfg/voucher.json and no bsfg/release.json and no bsfg/lift-producers on it"
    )


@pytest.mark.parametrize("unit", [DRIVER, MOUNT])
def test_a_stick_that_cannot_be_read_says_so(configured: Machine, unit: str) -> None:
    """Of another file system, or none; or a box without a driver. Both are stopped again all the same."""
    configured.broken.add(unit)
    assert configured.put_in()["state"] == StickState.FAILED
    assert configured.asked[-2:] == [("stop", MOUNT), ("stop", DRIVER)]


# -- systemd's part, by its text ---------------------------------------------------------------------------------------


def test_a_stick_is_mounted_without_anything_that_could_run() -> None:
    """Read-only, for root alone, and by the one name that udev gives to a FAT file system on USB."""
    unit = (UNITS / MOUNT).read_text("utf-8")
    options = set(re.findall(r"^Options=(.+)$", unit, re.MULTILINE)[0].split(","))
    assert {"ro", "nosuid", "nodev", "noexec", "nosymfollow", "umask=0077"} == options
    assert re.findall(r"^(?:What|Where|Type)=(.+)$", unit, re.MULTILINE) == [
        "/dev/bsfgstick",
        "/run/bsfg/stick",
        "vfat",
    ]
    assert BoxLayout().stick == Path("/run/bsfg/stick")
    assert "[Install]" not in unit
