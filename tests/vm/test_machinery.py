# SPDX-License-Identifier: Apache-2.0
"""The harness itself, with firmware alone and no image: what the other tests rely on is there.

When one of these fails, no finding of the others means anything.
"""

from __future__ import annotations

import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.flash.gpt import ESP, VAR, Partition, PartitionTable
from tools.vm import firmware, pace
from tools.vm.children import Child, program
from tools.vm.disk import Disk, blank, make_esp, overlay
from tools.vm.faults import AwaitedError, VmError
from tools.vm.hardware import Drive, Hardware, TapNetwork, UserNetwork
from tools.vm.machine import Machine
from tools.vm.segment import Segment
from tools.vm.tpm import SoftwareTpm, copy_tpm, make_tpm

SHELL = r"Shell> "
SECTORS = 64 * 2048


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    """A disk with an EFI system partition, and nothing on it that starts."""
    make_esp(tmp_path / "esp", 64, [("bsfg/site.toml", b"zone = 'plant-a'\n")])
    blank(tmp_path / "disk.raw", 200 << 20)
    made = Disk(tmp_path / "disk.raw")
    parts = (
        Partition(ESP, uuid.uuid4(), 2048, 2048 + SECTORS - 1, 0, "esp"),
        Partition(VAR, uuid.uuid4(), 2048 + SECTORS, 2 * SECTORS, 0, "var"),
    )
    made.set_table(PartitionTable(uuid.uuid4(), 0, parts))
    made.replace(made.partition("esp"), tmp_path / "esp")
    return made


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of this test's own for what is temporary; short, for sockets."""
    with tempfile.TemporaryDirectory() as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield Path(folder)


def test_firmware_starts_with_all_that_a_box_has(disk: Disk, tmp_path: Path, temporary: Path) -> None:
    """It sees the disk, the TPM and what was handed to it by SMBIOS; both networks are watched; it ends when told."""
    state = make_tpm(tmp_path / "tpm", tmp_path / "vendor")
    with Segment(tmp_path / "plant.log") as plant, SoftwareTpm(state, tmp_path / "tpm.log") as tpm:
        networks = (UserNetwork(capture=tmp_path / "up.pcap"), TapNetwork(plant.descriptor))
        hardware = Hardware(
            firmware.without_keys(tmp_path / "vars.fd"),
            (Drive(disk.path, boot=1),),
            tpm=tpm.socket,
            networks=networks,
            memory_mib=512,
            strings=("hello=a,b",),
        )
        with Machine(hardware, tmp_path) as machine:
            machine.wait(SHELL, what="the firmware's shell")
            machine.type("smbiosview -t 11\r\n")
            machine.wait(r"^hello=a,b$", what="the string handed over by SMBIOS", seconds=30)
            machine.type("type fs0:\\bsfg\\site.toml\r\n")
            machine.wait(r"zone = 'plant-a'", what="the file on the ESP", seconds=30)
            assert machine.monitor.command("query-tpm")[0]["model"] == "tpm-tis"
            pid, here = machine.pid, machine.serial.position
            with pytest.raises(AwaitedError, match="something: 'never' did not come within"):
                machine.wait("never", what="something", seconds=0.2, since=here)
            machine.type("reset -s\r\n")
            assert machine.wait_end("power-off", 60).data["reason"] == "guest-shutdown"
    assert not Path(f"/proc/{pid}").exists()
    assert (tmp_path / "up.pcap").stat().st_size >= 24
    assert list(temporary.iterdir()) == []


def test_a_reboot_ends_a_machine_and_says_so(disk: Disk, tmp_path: Path) -> None:
    """On an overlay, which leaves the disk below it as it was."""
    overlay(disk.path, tmp_path / "over.qcow2")
    before = disk.path.read_bytes()
    hardware = Hardware(firmware.without_keys(tmp_path / "vars.fd"), (Drive(tmp_path / "over.qcow2", "qcow2"),))
    with Machine(hardware, tmp_path) as machine:
        machine.wait(SHELL, what="the firmware's shell")
        machine.type("fs0:\r\necho written > new.txt\r\n")
        machine.wait(r"FS0:\\> ", what="a prompt", seconds=30)
        machine.type("reset -c\r\n")
        assert machine.wait_end("a reboot", 60).data["reason"] == "guest-reset"
    assert disk.path.read_bytes() == before


def test_what_cannot_start_says_why(disk: Disk, tmp_path: Path) -> None:
    """QEMU's own words, at once."""
    hardware = Hardware(firmware.without_keys(tmp_path / "vars.fd"), (Drive(disk.path),), extra=("-bogus",))
    with pytest.raises(VmError, match="bogus"), Machine(hardware, tmp_path):
        pytest.fail("it started")


def test_files_on_the_esp_are_changed_from_outside(disk: Disk) -> None:
    """As the flasher and an attacker do; the firmware's own tools agree about the table."""
    esp = disk.esp
    assert esp.names() == ["bsfg/site.toml"]
    esp.write("EFI/Linux/appliance-1.efi", b"x" * 100_000)
    esp.write("bsfg/site.toml", b"other")
    assert esp.read("bsfg/site.toml") == b"other"
    assert esp.ukis() == ["EFI/Linux/appliance-1.efi"]
    esp.rename("EFI/Linux/appliance-1.efi", "appliance-2.efi")
    assert esp.read(esp.uki()) == b"x" * 100_000
    esp.remove("EFI/Linux/appliance-2.efi")
    with pytest.raises(VmError, match="0 unified kernel images"):
        esp.uki()
    disk.grow(300 << 20)
    checked = subprocess.run([program("sfdisk"), "--dump", disk.path], capture_output=True, text=True, check=True)
    assert 'name="esp"' in checked.stdout


def test_the_plants_network_is_apart(tmp_path: Path) -> None:
    """From it nothing of this host is reached, not even loopback."""
    look = "import socket, sys; s = socket.socket(); s.settimeout(2); sys.exit(s.connect_ex(('127.0.0.1', {})) == 0)"
    server = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
    with Segment(tmp_path / "log") as plant, Child(["python3", "-c", server + "time.sleep(60)"], tmp_path / "port"):
        for _ in range(100):
            if (tmp_path / "port").read_text():
                break
            subprocess.run(["sleep", "0.1"], check=True)
        port = (tmp_path / "port").read_text().strip()
        outside = subprocess.run(["python3", "-c", look.format(port)], check=False).returncode
        inside = subprocess.run(plant.inside("python3", "-c", look.format(port)), check=False).returncode
    assert (outside, inside) == (1, 0)


def test_a_tpm_is_copied_with_all_it_keeps(tmp_path: Path) -> None:
    """A copy is the same TPM; two that are made are not."""
    state = make_tpm(tmp_path / "one", tmp_path / "vendor")
    other = make_tpm(tmp_path / "two", tmp_path / "vendor")
    copy = copy_tpm(tmp_path / "one", tmp_path / "copy")
    permanent = "tpm2-00.permall"
    assert (copy / permanent).read_bytes() == (state / permanent).read_bytes()
    assert (other / permanent).read_bytes() != (state / permanent).read_bytes()
    with SoftwareTpm(copy, tmp_path / "log") as tpm:
        assert tpm.socket.exists()
    assert pace.accelerator() in {"kvm", "tcg"}
