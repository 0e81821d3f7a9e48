# SPDX-License-Identifier: Apache-2.0
"""Credentials by SMBIOS, with which whoever owns the host runs units as root in a stock system: they do nothing here.

No PCR of the policy changes with them, so ignoring them is the whole protection: the box must boot and work as ever.
"""

from __future__ import annotations

import base64
from collections.abc import Callable

from tests.vm.calm import stays_calm
from tests.vm.conftest import Bench
from tools.vm.journey import beside

MARK = "/run/attacked"


def unit(name: str, text: str) -> str:
    """A unit as a credential."""
    return f"io.systemd.credential.binary:systemd.extra-unit.{name}={base64.b64encode(text.encode()).decode()}"


def drop_in(name: str, text: str) -> str:
    """A drop-in as a credential."""
    return f"io.systemd.credential.binary:systemd.unit-dropin.{name}={base64.b64encode(text.encode()).decode()}"


def service(mark: str) -> str:
    """What leaves a mark."""
    return f"[Service]\nType=oneshot\nExecStart=/usr/bin/mkdir {mark}\n"


ATTACKS = (
    # in the initrd
    unit("attack-early.service", "[Unit]\nDefaultDependencies=no\n" + service(f"{MARK}-early")),
    drop_in("initrd-fs.target", "[Unit]\nWants=attack-early.service\n"),
    # in the running system
    unit("attack.service", service(MARK)),
    drop_in("multi-user.target", "[Unit]\nWants=attack.service\n"),
    drop_in("bsfg.target", "[Unit]\nWants=attack.service\n"),
    # tmpfiles, sysctl, users, secrets, network
    f"io.systemd.credential:tmpfiles.extra=d {MARK}-tmpfiles 0755 root root -",
    "io.systemd.credential:sysctl.extra=kernel.kptr_restrict=0",
    "io.systemd.credential:passwd.hashed-password.root=",
    "io.systemd.credential:systemd.unit-dropin.bsfg-agent.service=[Service]\\nExecStart=",
    "io.systemd.credential:network.dns=192.0.2.1",
    "io.systemd.credential:fstab.extra=tmpfs /usr tmpfs",
)


def test_units_from_outside_do_not_run(bench: Bench, control: Callable[[], None]) -> None:
    """The box works as ever; the units are not known, their marks are not there, no credential has come in."""
    control()
    hub, box = bench.hub(), bench.box()
    with hub.running(), beside(box, hub, "attack", strings=ATTACKS) as journey:
        journey.to_ready()
        agent = journey.machine.agent
        assert agent.python(f"import glob; print(glob.glob({MARK + '*'!r}))") == "[]"
        for name in ("attack.service", "attack-early.service"):
            assert agent.run("/usr/bin/systemctl", "cat", name).code != 0
        assert agent.read("/proc/sys/kernel/kptr_restrict").strip() == b"2"
        assert "@system" not in journey.seen["credentials"]
        assert journey.seen["pcrs"]["12"] == bench.golden.report["seen"]["pcrs"]["12"]
        strings = agent.python(
            "print(open('/sys/firmware/dmi/tables/DMI', 'rb').read().count(b'io.systemd.credential'))"
        )
        assert int(strings) == len(ATTACKS), "the attack did not reach the guest"
        stays_calm(agent)
        journey.machine.power_off()
