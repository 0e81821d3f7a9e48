# SPDX-License-Identifier: Apache-2.0
"""Which configuration a box takes, keeps and takes back: the rule, the trial under simulated time, power cuts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.boundary.errors import BsfgError, DeniedError, IntegrityError
from appliance.boundary.reasons import Reason
from appliance.keys import files
from appliance.keys.operators import sign
from appliance.site import store as store_module
from appliance.site.document import DOMAIN
from appliance.site.store import Outcome, SiteStore, boot_id, boottime
from appliance.site.trial import LEAST_BOOT_S, LIMIT_S, Trial, Verdict
from tests import sites


@dataclass
class Box:
    """A box with a clock that a test turns, and a switch."""

    folder: Path
    now: float = 100.0
    boots: int = 1
    store: SiteStore = field(init=False)

    def __post_init__(self) -> None:
        self.store = SiteStore(self.folder, clock=lambda: self.now, boot=lambda: f"boot-{self.boots}")

    def reboot(self) -> None:
        """Off and on; the boottime clock begins anew."""
        self.boots, self.now = self.boots + 1, 5.0

    @property
    def version(self) -> int:
        """Of what is in force."""
        site = self.store.load()
        assert site is not None
        return site.config.version

    def refused(self, data: bytes) -> Reason:
        """The reason an offer is refused for, which is also kept."""
        with pytest.raises(BsfgError) as caught:
            self.store.offer(data, "stick")
        kept = self.store.refusal()
        assert kept is not None
        assert kept["reason"] == caught.value.reason
        return caught.value.reason


@pytest.fixture
def box(tmp_path: Path) -> Box:
    """A box without a configuration."""
    return Box(tmp_path / "site")


# -- the rule ----------------------------------------------------------------------------------------------------------


def test_the_first_one_is_taken_and_pins_its_signer(box: Box) -> None:
    """Then only that signer's, with a higher version."""
    assert box.store.load() is None
    assert box.refused(sites.example("single-site").encode()) is Reason.SITE_UNSIGNED
    offer = box.store.offer(sites.signed(3), "esp")
    assert (offer.outcome, offer.trial, offer.before) == (Outcome.FIRST, False, None)
    assert box.store.refusal() is None
    assert box.store.offer(sites.signed(3), "esp").outcome is Outcome.SAME
    assert box.refused(sites.signed(4, by="stranger")) is Reason.SITE_FOREIGN
    assert box.refused(sites.signed(3, name="two-nics")) is Reason.SITE_ROLLBACK
    assert box.refused(sites.signed(2)) is Reason.SITE_ROLLBACK
    assert box.version == 3
    assert box.store.offer(sites.signed(4), "stick").outcome is Outcome.CHANGED
    assert (box.folder / "previous.toml").read_bytes() == sites.signed(3)


def test_a_signer_is_replaced(box: Box) -> None:
    """The document names the next one; the old one is forgotten with the first document of the new one."""
    box.store.offer(sites.signed(1), "esp")
    assert box.refused(sites.signed(2, by="next")) is Reason.SITE_FOREIGN
    box.store.offer(sites.signed(2, signers=("next",)), "stick")
    box.store.tick(contact=True)
    assert box.store.offer(sites.signed(3, by="next"), "stick").outcome is Outcome.CHANGED
    box.store.tick(contact=True)
    assert box.refused(sites.signed(4)) is Reason.SITE_FOREIGN


def test_what_was_in_force_once_is_no_fault(box: Box) -> None:
    """The boot partition still has the document of the day the box was flashed."""
    box.store.offer(sites.signed(1), "esp")
    box.store.offer(sites.signed(2), "stick")
    assert box.store.offer(sites.signed(1), "esp").outcome is Outcome.OLDER
    assert box.store.refusal() is None
    assert box.version == 2


def test_a_dry_run_writes_nothing(box: Box) -> None:
    """Not even why it would be refused."""
    assert box.store.offer(sites.signed(1), "x", dry_run=True).outcome is Outcome.FIRST
    with pytest.raises(DeniedError):
        box.store.offer(b"", "x", dry_run=True)
    assert not box.folder.exists()


def test_a_refusal_says_where(box: Box) -> None:
    """Reason, file, line and text, for the status page."""
    box.store.offer(sites.signed(1), "esp")
    body = sites.example("single-site").replace('"192.0.2.53"', '"no"').encode()
    good = sites.signed(2)
    tail = good[good.rfind(b"[signature]") :]
    assert box.refused(body + tail) is Reason.SITE_UNSIGNED
    signed = body + sites.ending(sites.public("signer"), sign(sites.key("signer"), DOMAIN + body))
    assert box.refused(signed) is Reason.BAD_SITE
    kept = box.store.refusal()
    assert kept is not None
    assert kept["file"] == "stick"
    assert "servers" in body.decode().split("\n")[kept["line"] - 1]
    assert "not an address" in kept["text"]
    assert kept["hint"]


# -- damage ------------------------------------------------------------------------------------------------------------


def test_a_damaged_file_is_not_in_force(box: Box) -> None:
    """The one before is; a new one mends it; a stranger's does not."""
    box.store.offer(sites.signed(1), "esp")
    box.store.offer(sites.signed(2), "stick")
    box.store.tick(contact=True)
    path = box.folder / "site.toml"
    path.write_bytes(path.read_bytes()[:-40])
    assert box.version == 1
    assert box.refused(sites.signed(2, name="two-nics")) is Reason.SITE_ROLLBACK
    (box.folder / "previous.toml").write_bytes(b"")
    with pytest.raises(IntegrityError, match="bad_site"):
        box.store.load()
    assert box.refused(sites.signed(3, by="stranger")) is Reason.SITE_FOREIGN
    box.store.offer(sites.signed(3), "stick")
    assert box.version == 3


def test_lost_files_do_not_open_the_box(box: Box) -> None:
    """The memory says who may sign, even when both documents are gone; damaged beyond that, nobody may."""
    box.store.offer(sites.signed(5), "esp")
    (box.folder / "site.toml").unlink()
    assert box.store.load() is None
    assert box.refused(sites.signed(9, by="stranger")) is Reason.SITE_FOREIGN
    assert box.refused(sites.signed(4)) is Reason.SITE_ROLLBACK
    (box.folder / "memory.json").write_text("{")
    assert box.refused(sites.signed(9)) is Reason.BAD_SITE
    (box.folder / "memory.json").unlink()
    (box.folder / "site.toml").write_bytes(b"x")
    assert box.refused(sites.signed(9, by="stranger")) is Reason.BAD_SITE


def test_a_lost_memory_is_made_anew(box: Box) -> None:
    """What is in force says who may sign and how high the version is."""
    box.store.offer(sites.signed(5), "esp")
    (box.folder / "memory.json").unlink()
    assert box.refused(sites.signed(9, by="stranger")) is Reason.SITE_FOREIGN
    assert box.refused(sites.signed(4)) is Reason.SITE_ROLLBACK
    assert box.store.offer(sites.signed(6), "stick").outcome is Outcome.CHANGED


# -- the trial ---------------------------------------------------------------------------------------------------------


def on_trial(box: Box) -> None:
    """Version 1 in force and proven, version 2 on trial."""
    box.store.offer(sites.signed(1), "esp")
    assert box.store.offer(sites.signed(2), "stick").trial


def test_no_contact_within_ten_minutes_takes_it_back(box: Box) -> None:
    """By itself; why is kept; the same document is not taken again, a higher version is."""
    on_trial(box)
    for _ in range(59):
        box.now += 10
        assert not box.store.tick(contact=False)
    assert (box.version, box.store.left_s()) == (2, 10.0)
    box.now += 10
    assert box.store.tick(contact=False)
    assert box.version == 1
    kept = box.store.refusal()
    assert kept is not None
    assert kept["reason"] == "link_down"
    assert "version 2" in kept["text"]
    assert box.store.offer(sites.signed(2), "stick").outcome is Outcome.OLDER
    assert box.refused(sites.signed(2, name="two-nics")) is Reason.SITE_ROLLBACK
    assert not box.store.tick(contact=False)
    assert box.store.offer(sites.signed(3), "stick").trial


def test_contact_keeps_it(box: Box) -> None:
    """Even when it is noticed late; after that nothing takes it back."""
    on_trial(box)
    box.now += 10_000
    assert not box.store.tick(contact=True)
    assert box.store.left_s() is None
    box.now += 10_000
    assert not box.store.tick(contact=False)
    assert box.version == 2


def test_time_before_a_reboot_counts(box: Box) -> None:
    """What was noted of it, and at least half a minute for each boot."""
    on_trial(box)
    box.now += 400
    box.store.tick(contact=False)
    box.reboot()
    assert box.store.left_s() == LIMIT_S - 400 - 5
    box.now += 194
    assert not box.store.tick(contact=False)
    box.now += 1
    assert box.store.tick(contact=False)
    assert box.version == 1


def test_a_configuration_that_brings_the_box_down_is_taken_back(box: Box) -> None:
    """Each boot dies before anything is noted; it ends all the same."""
    on_trial(box)
    while not box.store.tick(contact=False):
        assert box.boots <= LIMIT_S / LEAST_BOOT_S + 1
        box.reboot()
    assert box.version == 1


def test_a_second_one_on_trial_goes_back_to_the_proven_one(box: Box) -> None:
    """Version 3 replaces the unproven 2; without contact 1 is back."""
    on_trial(box)
    box.now += 300
    assert box.store.offer(sites.signed(3), "stick").trial
    assert box.store.left_s() == LIMIT_S
    box.now += LIMIT_S
    assert box.store.tick(contact=False)
    assert box.version == 1


def test_no_trial_where_there_is_nobody_to_be_in_contact_with(box: Box) -> None:
    """An air-gapped configuration needs no proof."""
    box.store.offer(sites.signed(1), "esp")
    assert not box.store.offer(sites.signed(2, name="air-gapped"), "stick").trial
    box.now += 10_000
    assert not box.store.tick(contact=False)
    assert box.version == 2


def test_nothing_to_go_back_to_is_no_reason_to_have_none(box: Box) -> None:
    """The copy of the old one is gone: the new one stays."""
    on_trial(box)
    (box.folder / "previous.toml").unlink()
    box.now += LIMIT_S
    assert not box.store.tick(contact=False)
    assert box.version == 2


def test_the_real_clock_and_boot(tmp_path: Path) -> None:
    """As the box has them."""
    assert 0 < boottime() <= boottime()
    assert boot_id() == boot_id()
    assert len(boot_id()) == 36
    store = SiteStore(tmp_path)
    store.offer(sites.signed(1), "x")
    store.offer(sites.signed(2), "x")
    left = store.left_s()
    assert left is not None
    assert LIMIT_S - 60 < left <= LIMIT_S


@given(
    st.lists(st.tuples(st.sampled_from(["tick", "reboot", "contact"]), st.floats(0, 700, allow_nan=False)), max_size=30)
)
@settings(max_examples=200, deadline=None)
def test_a_trial_ends_once_and_in_time(events: list[tuple[str, float]]) -> None:
    """Whatever happens: kept only by contact, taken back only after 600 s of running or enough boots."""
    trial, boot, now, ran, boots = Trial.begin("d", 2, "1", 50.0), 1, 50.0, 0.0, 0
    for event, amount in events:
        if event == "reboot":
            boot, now, boots = boot + 1, amount, boots + 1
            ran += amount
        else:
            now, ran = now + amount, ran + amount
        verdict = trial.verdict(str(boot), now, contact=event == "contact")
        assert (verdict is Verdict.KEEP) == (event == "contact")
        assert trial.noted(str(boot), now).spent_s <= ran + boots * LEAST_BOOT_S + 1e-6
        if verdict is Verdict.REVERT:
            assert ran + boots * LEAST_BOOT_S >= LIMIT_S - 1e-6
        if ran >= LIMIT_S + LEAST_BOOT_S and event == "tick" and boots == 0:
            assert verdict is Verdict.REVERT
        trial = trial.noted(str(boot), now)
        assert Trial.parse(json.loads(json.dumps(trial.document()))) == trial


@pytest.mark.parametrize(
    "values", [None, {}, {"digest": "x"}, Trial.begin("d", 1, "b", 0.0).document() | {"version": "1"}]
)
def test_a_damaged_trial_is_none(values: object) -> None:
    """It is parsed strictly."""
    with pytest.raises(ValueError, match="not a trial"):
        Trial.parse(values)


# -- power cuts --------------------------------------------------------------------------------------------------------


class PowerFailsError(BaseException):
    """The power fails before a file is replaced or removed."""


def cut_at(box: Box, monkeypatch: pytest.MonkeyPatch, count: int, act: Callable[[], object]) -> bool:
    """Do something, with a power cut before its ``count``-th change on disk. :returns: whether it came to that."""
    left = count

    def counted(what: Callable[..., object]) -> Callable[..., object]:
        def change(*args: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise PowerFailsError
            return what(*args, **more)

        return change

    with monkeypatch.context() as patch:
        patch.setattr(store_module, "write_atomically", counted(files.write_atomically))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        try:
            act()
        except PowerFailsError:
            return True
    return False


@pytest.mark.parametrize("story", ["first", "changed", "second on trial", "air-gapped", "reverted", "kept", "refused"])
def test_a_power_cut_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, story: str) -> None:
    """Afterwards a whole document is in force, the old or the new one; trial and rule go on as if nothing had been."""
    for count in range(20):
        box = Box(tmp_path / f"{count}")
        if story != "first":
            box.store.offer(sites.signed(1), "esp")
        if story in ("second on trial", "reverted", "kept"):
            box.store.offer(sites.signed(2), "stick")
        act: Callable[[], object] = {
            "first": lambda box=box: box.store.offer(sites.signed(1), "esp"),
            "changed": lambda box=box: box.store.offer(sites.signed(2), "stick"),
            "second on trial": lambda box=box: box.store.offer(sites.signed(3), "stick"),
            "air-gapped": lambda box=box: box.store.offer(sites.signed(2, name="air-gapped"), "stick"),
            "reverted": lambda box=box: box.store.tick(contact=False),
            "kept": lambda box=box: box.store.tick(contact=True),
            "refused": lambda box=box: box.refused(b""),
        }[story]
        box.now += LIMIT_S if story == "reverted" else 0
        was_cut = cut_at(box, monkeypatch, count, act)
        box.reboot()
        after_a_cut(box, story)
        if not was_cut:
            assert count > 0
            return
    pytest.fail("it never got through")


def after_a_cut(box: Box, story: str) -> None:
    """What must hold at the next start, whenever the power failed."""
    site = box.store.load()
    assert box.store.offer(sites.signed(1), "esp").outcome in (Outcome.FIRST, Outcome.SAME, Outcome.OLDER)
    if site is None:
        assert story == "first"
        return
    assert box.refused(sites.signed(9, by="stranger")) is Reason.SITE_FOREIGN
    assert box.refused(sites.signed(1, name="two-nics")) is Reason.SITE_ROLLBACK
    box.store.tick(contact=False)
    box.now += 2 * LIMIT_S
    box.store.tick(contact=False)
    box.store.tick(contact=False)
    if story not in ("kept", "air-gapped"):  # whatever was lost: what had no contact does not stay
        assert box.version == 1
        wanted = Outcome.SAME if site.config.version == 1 else Outcome.OLDER  # nor does it come again
        assert box.store.offer(site.data, "esp").outcome is wanted
    assert box.store.left_s() is None
    assert box.store.offer(sites.signed(20), "stick").outcome is Outcome.CHANGED
    shutil.rmtree(box.folder)
