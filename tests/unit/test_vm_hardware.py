# SPDX-License-Identifier: Apache-2.0
"""QEMU's command line, and how patient the tests of virtual machines are."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

from tools.vm import pace
from tools.vm.firmware import Firmware
from tools.vm.hardware import Drive, Hardware, Sockets, TapNetwork, UserNetwork, arguments

IDENTITY = uuid.UUID("00112233-4455-6677-8899-aabbccddeeff")
PLAIN = Hardware(Firmware(Path("code.fd"), Path("vars.fd")), (Drive(Path("disk.raw"), boot=1),), identity=IDENTITY)


def options(hardware: Hardware, name: str) -> list[str]:
    """The values of one option."""
    command = arguments(hardware, Sockets(Path("s")), Path("log"), "tcg")
    return [value for option, value in itertools.pairwise(command) if option == f"-{name}"]


def test_a_machine_has_secure_firmware_and_nothing_unasked() -> None:
    """Its variables can be written in system management mode alone; a reboot ends it; it starts paused."""
    command = arguments(PLAIN, Sockets(Path("s")), Path("log"), "tcg")
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-S"} <= set(command)
    assert options(PLAIN, "machine") == ["q35,smm=on"]
    assert "driver=cfi.pflash01,property=secure,value=on" in options(PLAIN, "global")
    assert options(PLAIN, "drive")[0] == "if=pflash,unit=0,format=raw,file=code.fd,readonly=on"
    assert options(PLAIN, "uuid") == [str(IDENTITY)]
    assert options(PLAIN, "netdev") == []
    assert options(PLAIN, "tpmdev") == []
    assert options(PLAIN, "action") == ["watchdog=reset"]


def test_no_port_is_forwarded_into_a_guest() -> None:
    """Nor is anything of the guest's network shared with the host's."""
    both = (UserNetwork(capture=Path("up.pcap")), UserNetwork("52:54:00:00:00:01", restricted=True))
    machine = replace(PLAIN, networks=both)
    assert options(machine, "netdev") == ["user,id=net0", "user,id=net1,restrict=on"]
    assert "filter-dump,id=dump0,netdev=net0,file=up.pcap" in options(machine, "object")
    assert not any("fwd" in part for part in arguments(machine, Sockets(Path("s")), Path("log"), "kvm"))


def test_cards_keep_their_places() -> None:
    """So a guest names them the same at each boot."""
    machine = replace(PLAIN, networks=(UserNetwork(), TapNetwork(7)))
    cards = [value for value in options(machine, "device") if value.startswith("virtio-net")]
    assert [card.rpartition("addr=")[2] for card in cards] == ["0x10", "0x11"]
    assert options(machine, "netdev") == ["user,id=net0", "tap,id=net1,fd=7"]
    assert machine.descriptors == (7,)


def test_commas_are_no_way_out_of_a_value() -> None:
    """What an attacker says by SMBIOS is handed on as it is; so are paths."""
    machine = replace(PLAIN, strings=("io.systemd.credential:a=b,c",), drives=(Drive(Path("a,b.raw"), bus="usb"),))
    assert options(machine, "smbios") == ["type=11,value=io.systemd.credential:a=b,,c"]
    assert options(machine, "drive")[-1] == "if=none,id=disk0,format=raw,cache=writeback,file=a,,b.raw"
    assert "qemu-xhci,id=usb" in options(machine, "device")


@pytest.mark.parametrize("text", ["0.1", "21", "-1", "fast", "nan"])
def test_a_factor_is_a_number_in_reason(text: str) -> None:
    """What is set by hand is checked."""
    with pytest.raises(ValueError, match=r"0\.25 to 20|could not convert"):
        pace.parse_factor(text)


def test_limits_follow_the_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A boot is given four minutes at least."""
    monkeypatch.setenv("BSFG_VM_PACE", "4")
    pace.factor.cache_clear()
    try:
        assert (pace.limit(10), pace.boot_limit(), pace.boot_limit(10)) == (40, 480, pace.BOOT_S)
    finally:
        pace.factor.cache_clear()
