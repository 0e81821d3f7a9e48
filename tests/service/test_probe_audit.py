# SPDX-License-Identifier: Apache-2.0
"""The probe of audit: by this kernel's own audit, as far as it goes, else by recorded words.

This kernel has no IPE, so its denials are *recorded*: texts as the documentation of Linux shows them. Nor can audit be
locked here, for that would last until the machine is booted anew: what it says of itself is played by a fake.
"""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance.watchdog.netlink import Netlink
from appliance.watchdog.probes.audit import IPE_ACCESS, AuditProbe, AuditStatus, KernelAudit
from appliance.watchdog.probing import Reading
from appliance.watchdog.suspicions import Code
from tests.conftest import IN_CI
from tests.contracts.audit import USER_AVC, AuditContract, World
from tests.fakes.audit import FakeAudit
from tests.side_by_side import first_network
from tests.tampering_audit import ANONYMOUS, AUDIT_TAMPERINGS, LOCKED, RULES, AuditTampering, refusal

NETLINK_AUDIT = 9


def user_record(text: bytes) -> None:
    """Have the kernel record a text (type USER_AVC)."""
    with Netlink(NETLINK_AUDIT) as kernel:
        kernel.ask(USER_AVC, text + b"\0", flags=4)


@pytest.fixture
def kernel() -> Iterator[KernelAudit]:
    """This kernel's audit; it answers nobody in another PID namespace than the first, as in a container."""
    try:
        with first_network(), ExitStack() as stack:
            audit = KernelAudit()
            stack.callback(audit.close)
            audit.status()
            stack.pop_all()
    except OSError as error:
        if IN_CI:
            pytest.fail(f"audit: {error}")
        pytest.skip(f"audit: {error}")
    yield audit
    audit.close()


class TestKernelAudit(AuditContract):
    """The real one."""

    @pytest.fixture
    def world(self, kernel: KernelAudit) -> World:
        """This kernel."""
        return World(kernel, user_record)


class TestFakeAudit(AuditContract):
    """The fake."""

    @pytest.fixture
    def world(self) -> Iterator[World]:
        """In memory."""
        fake = FakeAudit(LOCKED)
        yield World(fake, lambda text: fake.record(USER_AVC, text))
        fake.close()


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """The image's rules."""
    path = tmp_path / "audit.rules"
    path.write_text(RULES)
    return path


@pytest.fixture
def fake() -> Iterator[FakeAudit]:
    """Audit as the image locks it."""
    made = FakeAudit(LOCKED)
    yield made
    made.close()


def codes(reading: Reading) -> set[Code]:
    """What is seen."""
    return {seen.code for seen in reading.seen}


@pytest.mark.parametrize("tampering", AUDIT_TAMPERINGS, ids=lambda each: each.name)
def test_each_is_seen(fake: FakeAudit, rules: Path, tmp_path: Path, tampering: AuditTampering) -> None:
    """Before it nothing; after it its own code, again and again; and by the next sensor of this boot, if it lasts."""
    probe = AuditProbe(lambda: fake, tmp_path, rules)
    for _ in range(2):
        assert probe.look() == Reading(probe.name, facts=probe.look().facts)
    tampering.inject(fake)
    for _ in range(2):
        reading = probe.look()
        assert (codes(reading), reading.blind) == ({tampering.code}, ""), reading
    if tampering.code is Code.AUDIT_OFF:
        assert codes(AuditProbe(lambda: fake, tmp_path, rules).look()) == {Code.AUDIT_OFF}


def test_a_refusal_comes_by_the_kernels_own_way(kernel: KernelAudit, rules: Path, tmp_path: Path) -> None:
    """With the type of a record that a program may write in place of IPE's, and IPE's own words in it."""
    probe = AuditProbe(lambda: kernel, tmp_path, rules, frozenset({USER_AVC}))
    assert not probe.look().seen
    user_record(refusal("/var/lib/bsfg/tool", "sh"))
    assert probe.descriptor() == kernel.fileno()
    select.select([kernel], [], [], 5.0)
    reading = probe.look()
    assert [(each.code, each.detail) for each in reading.seen] == [
        (Code.EXECUTABLE_REFUSED, "/var/lib/bsfg/tool by sh (BPRM_CHECK)")
    ]


def test_what_is_no_attempt_is_nothing(fake: FakeAudit, rules: Path, tmp_path: Path) -> None:
    """Executable memory of no file, and records of other kinds, whatever their words."""
    probe = AuditProbe(lambda: fake, tmp_path, rules)
    fake.record(IPE_ACCESS, ANONYMOUS)
    fake.record(1300, refusal("/var/lib/bsfg/tool", "sh"))
    reading = probe.look()
    assert (reading.seen, reading.facts["anonymous"]) == ((), "1")


def test_audit_that_was_never_locked_makes_it_blind(fake: FakeAudit, rules: Path, tmp_path: Path) -> None:
    """Nothing was taken away; but the uplink must not open. Nor where audit does not answer."""
    fake.now = AuditStatus(1, 0, 2)
    probe = AuditProbe(lambda: fake, tmp_path, rules)
    reading = probe.look()
    assert (reading.seen, "never locked" in reading.blind) == ((), True)
    fake.fails = True
    reading = probe.look()
    assert (reading.seen, bool(reading.blind)) == ((), True)
    fake.fails, fake.now = False, LOCKED
    assert probe.look().blind == ""

    def denied() -> FakeAudit:
        raise PermissionError("not for you")

    probe = AuditProbe(denied, tmp_path, rules)
    assert (probe.descriptor(), probe.look().seen, probe.look().blind) == (None, (), "PermissionError: not for you")
