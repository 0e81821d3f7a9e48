# SPDX-License-Identifier: Apache-2.0
"""A kernel image without a signature, or with somebody else's, on the ESP: the firmware does not start it.

Each is a good image otherwise: made of the parts of the one that boots, with signatures for PCR 11 that would open
``/var``. So it is Secure Boot that keeps it out, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

from appliance.firmware.keys import SecureBootKeys
from tests.vm.conftest import Bench
from tests.vm.refusing import firmware_refuses
from tools.vm import kernels, pe


def test_an_unsigned_kernel_image_is_not_started(bench: Bench, control: Callable[[], None]) -> None:
    """Its signature is taken off; not a bit more is changed."""
    control()
    box = bench.box()
    name = box.disk.esp.uki()
    box.disk.esp.write(name, pe.unsigned(box.disk.esp.read(name)))
    assert not pe.is_signed(box.disk.esp.read(name))
    with box.running("attack") as machine:
        firmware_refuses(machine)


def test_a_kernel_image_signed_by_somebody_else_is_not_started(bench: Bench, control: Callable[[], None]) -> None:
    """With keys of the same form, made just now."""
    control()
    box = bench.box()
    name = box.disk.esp.uki()
    good = bench.folder / "good.efi"
    good.write_bytes(box.disk.esp.read(name))
    keys = SecureBootKeys.create(bench.folder / "keys")
    box.disk.esp.write(
        name, kernels.resigned(good, bench.folder / "parts", keys.db_key, keys.db_certificate).read_bytes()
    )
    assert pe.is_signed(box.disk.esp.read(name))
    with box.running("attack") as machine:
        firmware_refuses(machine)


def test_the_boot_loader_itself_must_be_signed(bench: Bench, control: Callable[[], None]) -> None:
    """Both names under which the firmware finds it."""
    control()
    box = bench.box()
    for name in ("EFI/BOOT/BOOTX64.EFI", "EFI/systemd/systemd-bootx64.efi"):
        box.disk.esp.write(name, pe.unsigned(box.disk.esp.read(name)))
    with box.running("attack") as machine:
        firmware_refuses(machine)
