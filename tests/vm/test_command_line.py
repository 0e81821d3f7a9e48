# SPDX-License-Identifier: Apache-2.0
"""Somebody lengthens the kernel's command line, or adds credentials, beside the signed image: nothing is opened.

All of these are accepted by a stock stub with Secure Boot on. They are measured into PCR 12, which our keys want zero.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.vm.conftest import Bench
from tests.vm.refusing import opens_nothing
from tools.vm import kernels

EXTRA = "systemd.unit=emergency.target rd.systemd.debug_shell=1"


def test_a_longer_command_line_by_smbios_opens_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """Firmware hands it over; no signature is asked for."""
    control()
    with bench.box().running("attack", strings=(f"io.systemd.stub.kernel-cmdline-extra={EXTRA}",)) as machine:
        opens_nothing(machine)


def test_an_add_on_of_ours_opens_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """Even one that is signed with the image's own key."""
    control()
    box = bench.box()
    addon = kernels.addon(bench.folder / "parts", EXTRA).read_bytes()
    box.disk.esp.write(f"{box.disk.esp.uki()}.extra.d/attack.addon.efi", addon)
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_an_add_on_for_all_images_opens_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """The folder that every image reads."""
    control()
    box = bench.box()
    box.disk.esp.write("loader/addons/attack.addon.efi", kernels.addon(bench.folder / "parts", EXTRA).read_bytes())
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_an_unsigned_add_on_is_not_even_read(bench: Bench, control: Callable[[], None]) -> None:
    """The firmware refuses to load it. The box starts without it, or not at all; its command line is the signed one."""
    control()
    box = bench.box()
    addon = kernels.addon(bench.folder / "parts", EXTRA, signed=False).read_bytes()
    box.disk.esp.write(f"{box.disk.esp.uki()}.extra.d/attack.addon.efi", addon)
    with box.running("attack") as machine:
        agent = machine.wait_agent()
        assert agent.read("/proc/cmdline").decode() == bench.golden.report["seen"]["cmdline"] + "\n"


def test_a_credential_on_the_esp_opens_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """Beside the image."""
    control()
    box = bench.box()
    box.disk.esp.write(f"{box.disk.esp.uki()}.extra.d/attack.cred", b"systemd.extra-unit.attack.service")
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_a_credential_for_all_images_opens_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """In the folder of the boot loader."""
    control()
    box = bench.box()
    box.disk.esp.write("loader/credentials/attack.cred", b"systemd.extra-unit.attack.service")
    with box.running("attack") as machine:
        opens_nothing(machine)


def test_an_extension_on_the_esp_opens_nothing(bench: Bench, control: Callable[[], None]) -> None:
    """A system extension or a configuration extension: measured into PCR 13."""
    control()
    box = bench.box()
    folder = f"{box.disk.esp.uki()}.extra.d"
    for name in ("attack.sysext.raw", "attack.confext.raw"):
        box.disk.esp.write(f"{folder}/{name}", b"\0" * 4096)
    with box.running("attack") as machine:
        opens_nothing(machine)
