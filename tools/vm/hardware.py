# SPDX-License-Identifier: Apache-2.0
"""What a virtual machine is made of, and the QEMU command line that follows from it. Pure: nothing is started here."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tools.vm.firmware import Firmware

UPLINK_MAC: Final = "52:54:00:b5:f6:01"
PLANT_MAC: Final = "52:54:00:b5:f6:02"
HUB_ADDRESS: Final = "10.0.2.2"
"""Where a guest finds the host's loopback interface on its uplink; QEMU's user network fixes it."""
FIRST_PCI_SLOT: Final = 0x10
EMULATED: Final = "max,erms=off"
"""The processor without KVM: a guest that believes in fast string instructions copies memory byte by byte there, and
takes a third longer to boot (measured)."""
USB_BUS: Final = "usb"
AGENT_PORT: Final = "org.qemu.guest_agent.0"


@dataclass(frozen=True, slots=True)
class Drive:
    """A disk. :param form: ``raw`` or ``qcow2``. :param bus: ``virtio`` or ``usb``. :param boot: order; ``None``: not.

    :param cache: QEMU's word for it: ``writeback`` (flushes reach the host's disk), ``unsafe`` (they do not).
    """

    path: Path
    form: str = "raw"
    bus: str = "virtio"
    serial: str = ""
    boot: int | None = None
    cache: str = "writeback"
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class UserNetwork:
    """A network card on QEMU's user network: the guest may dial out, nobody can dial in; no port is forwarded.

    :param restricted: the guest reaches nothing at all. :param capture: every frame goes into this pcap file.
    """

    mac: str = UPLINK_MAC
    restricted: bool = False
    capture: Path | None = None


@dataclass(frozen=True, slots=True)
class TapNetwork:
    """A network card on a segment of the host (:mod:`tools.vm.segment`). :param descriptor: of the open tap device."""

    descriptor: int
    mac: str = PLANT_MAC
    capture: Path | None = None


Network = UserNetwork | TapNetwork


@dataclass(frozen=True, slots=True)
class Hardware:
    """A machine.

    :param strings: SMBIOS type 11 strings, which firmware hands to the system: what an attacker with the host sets.
    :param clock: of the clock chip at start: ``utc``, or ``2001-01-01T00:00:00``.
    :param identity: SMBIOS UUID; a box keeps it for life.
    :param screen: a display, for screenshots; it slows an emulated machine.
    :param usb: a USB controller, also with nothing in it at start.
    """

    firmware: Firmware
    drives: tuple[Drive, ...]
    tpm: Path | None = None
    networks: tuple[Network, ...] = ()
    memory_mib: int = 1024
    cpus: int = 2
    strings: tuple[str, ...] = ()
    clock: str = "utc"
    identity: uuid.UUID = field(default_factory=uuid.uuid4)
    agent: bool = True
    screen: bool = False
    usb: bool = False
    extra: tuple[str, ...] = ()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Open files that QEMU inherits."""
        return tuple(network.descriptor for network in self.networks if isinstance(network, TapNetwork))


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where a machine is talked to: unix sockets in one short folder."""

    folder: Path

    @property
    def monitor(self) -> Path:
        """QMP."""
        return self.folder / "qmp"

    @property
    def serial(self) -> Path:
        """The serial line."""
        return self.folder / "serial"

    @property
    def agent(self) -> Path:
        """The guest's agent."""
        return self.folder / "agent"


def arguments(hardware: Hardware, sockets: Sockets, log: Path, accelerator: str) -> list[str]:
    """QEMU's arguments. The machine starts paused; a reboot of the guest ends it.

    :param log: everything from the serial line goes into this file. :param accelerator: ``kvm`` or ``tcg``.
    """
    parts = ["-name", "bsfg-box", "-nodefaults", "-no-user-config", "-display", "none", "-S", "-no-reboot"]
    parts += ["-machine", "q35,smm=on", "-accel", "kvm" if accelerator == "kvm" else "tcg,thread=multi"]
    parts += [
        "-cpu",
        "max" if accelerator == "kvm" else EMULATED,
        "-smp",
        str(hardware.cpus),
        "-m",
        f"{hardware.memory_mib}M",
    ]
    parts += ["-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1"]
    parts += _flash(0, hardware.firmware.code, read_only=True) + _flash(1, hardware.firmware.variables)
    parts += ["-uuid", str(hardware.identity), "-rtc", f"base={hardware.clock}", "-device", "virtio-rng-pci"]
    parts += ["-device", "i6300esb", "-action", "watchdog=reset"]
    parts += ["-chardev", f"socket,id=monitor,path={_value(sockets.monitor)},server=on,wait=off"]
    parts += ["-mon", "chardev=monitor,mode=control"]
    serial = f"socket,id=serial,path={_value(sockets.serial)},server=on,wait=off,logfile={_value(log)},logappend=on"
    parts += ["-chardev", serial, "-serial", "chardev:serial"]
    for string in hardware.strings:
        parts += ["-smbios", f"type=11,value={_value(string)}"]
    if hardware.tpm is not None:
        parts += ["-chardev", f"socket,id=tpm,path={_value(hardware.tpm)}", "-tpmdev", "emulator,id=tpm,chardev=tpm"]
        parts += ["-device", "tpm-tis,tpmdev=tpm"]
    parts += ["-vga", "none", "-device", "VGA"] if hardware.screen else ["-vga", "none"]
    parts += _agent(sockets) if hardware.agent else []
    if hardware.usb or any(drive.bus == "usb" for drive in hardware.drives):
        parts += ["-device", f"qemu-xhci,id={USB_BUS}"]
    parts += _drives(hardware.drives) + _networks(hardware.networks)
    return [*parts, *hardware.extra]


def _value(text: object) -> str:
    """A value inside one of QEMU's comma-separated options."""
    return str(text).replace(",", ",,")


def _flash(unit: int, path: Path, *, read_only: bool = False) -> list[str]:
    mode = ",readonly=on" if read_only else ""
    return ["-drive", f"if=pflash,unit={unit},format=raw,file={_value(path)}{mode}"]


def _agent(sockets: Sockets) -> list[str]:
    return [
        *("-device", "virtio-serial-pci"),
        *("-chardev", f"socket,id=agent,path={_value(sockets.agent)},server=on,wait=off"),
        *("-device", f"virtserialport,chardev=agent,name={AGENT_PORT}"),
    ]


def _drives(drives: Sequence[Drive]) -> list[str]:
    parts: list[str] = []
    for number, drive in enumerate(drives):
        options = f"if=none,id=disk{number},format={drive.form},cache={drive.cache},file={_value(drive.path)}"
        parts += ["-drive", options + (",readonly=on" if drive.read_only else "")]
        device = f"usb-storage,bus={USB_BUS}.0,drive=disk{number},removable=on" if drive.bus == "usb" else ""
        device = device or f"virtio-blk-pci,drive=disk{number}"
        device += f",serial={_value(drive.serial)}" if drive.serial else ""
        parts += ["-device", device + (f",bootindex={drive.boot}" if drive.boot is not None else "")]
    return parts


def _networks(networks: Iterable[Network]) -> list[str]:
    parts: list[str] = []
    for number, network in enumerate(networks):
        name = f"net{number}"
        if isinstance(network, UserNetwork):
            parts += ["-netdev", f"user,id={name}" + (",restrict=on" if network.restricted else "")]
        else:
            parts += ["-netdev", f"tap,id={name},fd={network.descriptor}"]
        slot = FIRST_PCI_SLOT + number  # fixed, so that the guest's names for its cards are
        parts += ["-device", f"virtio-net-pci,netdev={name},mac={network.mac},romfile=,addr={slot:#x}"]
        if network.capture is not None:
            parts += ["-object", f"filter-dump,id=dump{number},netdev={name},file={_value(network.capture)}"]
    return parts
