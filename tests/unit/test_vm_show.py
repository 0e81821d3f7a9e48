# SPDX-License-Identifier: Apache-2.0
"""What ``make vm`` shows, and what is read out of a capture of a network card."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from tools.vm.capture import HubPorts, Packet, allowed, read
from tools.vm.faults import VmError
from tools.vm.hardware import HUB_ADDRESS, UPLINK_MAC
from tools.vm.show import STEPS, Progress, SerialShown
from tools.vm.transcript import Transcript

GUEST, OTHER = bytes.fromhex(UPLINK_MAC.replace(":", "")), bytes(6)
HUB = HubPorts(1000, 1001, 1002)


def test_a_page_that_paints_itself_is_shown_once() -> None:
    """With other numbers only; what is new comes through, and half lines wait."""
    serial, lines = Transcript(), list[str]()
    shown = SerialShown(serial, lines.append)
    serial.feed(b"BSFG appliance 12:00:01\r\nwaiting 3\r\nhal")
    shown.show()
    serial.feed(b"f\r\n\x1b[H BSFG appliance 12:00:02\r\nwaiting 4\r\nenrolled\r\n")
    shown.show()
    assert [line.strip(" |") for line in lines] == ["BSFG appliance 12:00:01", "waiting 3", "half", "enrolled"]


def test_the_table_names_what_was_not_reached() -> None:
    """Every step has its line."""
    lines: list[str] = []
    progress = Progress(lines.append)
    progress.reach("booted", 61.25)
    progress.reach("tpm", 62.0, "PCR 15")
    table = progress.table()
    assert lines[0] == "  61.2 s  the system runs; its disk was made and opened by the TPM"
    assert not progress.complete
    assert len(table.splitlines()) == 2 + len(STEPS)
    assert "enrolled           no  the hub has let the box in, by what its TPM proves" in table
    for step in STEPS:
        progress.reach(step, 1)
    assert progress.complete


def frame(source: bytes, kind: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return bytes(6) + source + kind.to_bytes(2, "big") + payload.ljust(46, b"\0")


def ip4(protocol: int, target: str, payload: bytes) -> bytes:
    """An IPv4 packet without options."""
    return b"\x45" + bytes(8) + bytes([protocol]) + bytes(6) + IPv4Address(target).packed + payload


def tcp(port: int, flags: int) -> bytes:
    """A TCP header."""
    return struct.pack(">HHIIBBHHH", 40000, port, 0, 0, 0x50, flags, 0, 0, 0)


def capture(path: Path, *frames: bytes) -> Path:
    """A pcap file."""
    records = b"".join(struct.pack("<IIII", 0, 0, len(one), len(one)) + one for one in frames)
    path.write_bytes(struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1) + records)
    return path


def test_a_capture_is_read(tmp_path: Path) -> None:
    """Who sent it, what it is, where to, and whether it opens a connection."""
    ip6 = b"\x60" + bytes(5) + b"\x3a\xff" + bytes(16) + IPv6Address("ff02::2").packed + b"\x85" + bytes(7)
    path = capture(
        tmp_path / "pcap",
        frame(GUEST, 0x0806, bytes(28)),
        frame(GUEST, 0x0800, ip4(6, HUB_ADDRESS, tcp(1000, 0x02))),
        frame(OTHER, 0x0800, ip4(6, "10.0.2.15", tcp(40000, 0x12))),
        frame(GUEST, 0x0800, ip4(17, "255.255.255.255", struct.pack(">HHHH", 68, 67, 8, 0))),
        frame(GUEST, 0x86DD, ip6),
        frame(GUEST, 0x88CC, bytes(46)),
    )
    assert read(path) == [
        Packet(True, "arp", ""),
        Packet(True, "tcp", HUB_ADDRESS, 1000, opens=True),
        Packet(False, "tcp", "10.0.2.15", 40000),
        Packet(True, "udp", "255.255.255.255", 67),
        Packet(True, "icmp6", "ff02::2", 133),
        Packet(True, "ethernet 0x88cc", ""),
    ]
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(VmError, match="no capture"):
        read(tmp_path / "other")


@pytest.mark.parametrize(
    ("packet", "fine"),
    [
        (Packet(True, "arp", ""), True),
        (Packet(True, "tcp", HUB_ADDRESS, 1002), True),
        (Packet(True, "tcp", HUB_ADDRESS, 1003), False),
        (Packet(True, "tcp", "192.0.2.1", 1000), False),
        (Packet(True, "udp", HUB_ADDRESS, 67), True),
        (Packet(True, "udp", "10.0.2.3", 53), False),
        (Packet(True, "udp", "224.0.0.251", 5353), False),
        (Packet(True, "icmp6", "ff02::16", 143), True),
        (Packet(True, "icmp6", "2001:db8::1", 135), False),
        (Packet(True, "icmp6", "ff02::1", 128), False),
        (Packet(True, "icmp", HUB_ADDRESS, 8), False),
        (Packet(True, "47", HUB_ADDRESS), False),
        (Packet(True, "ethernet 0x88cc", ""), False),
    ],
)
def test_only_the_hub_and_the_link_itself_are_allowed(packet: Packet, fine: bool) -> None:
    """Names, pings, LLDP and tunnels are not."""
    assert allowed(packet, HUB) is fine
