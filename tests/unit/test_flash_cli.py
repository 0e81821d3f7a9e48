# SPDX-License-Identifier: Apache-2.0
"""``bsfg image`` as people and programs use it; disks are files in a made-up tree."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import ExitCode, Reason
from appliance.box.layout import BoxLayout
from appliance.cli.image import Progress, Size, size_text
from appliance.cli.main import cli
from appliance.flash import sysfs
from appliance.flash.disks import DiskFacts
from appliance.flash.embed import Embedding
from appliance.flash.gpt import MIB, PartitionTable
from appliance.flash.job import FileTarget, Job
from appliance.keys.enrolment.voucher import new_voucher
from tests.fakes.disks import FakeDisks
from tests.flashing import HAS_MTOOLS, IMAGE_BYTES, SmallRelease, measurements, mtools, new_key, small_release
from tests.sites import config, key, signed
from tests.sysfs_tree import SysfsTree

DISK_BYTES = 24 * MIB
USB = "pci0000:00/0000:00:14.0/usb1/1-2/1-2:1.0/host6/target6:0:0/6:0:0:0"
BROUGHT_AS = BoxLayout(Path("/")).brought_measurements.relative_to("/boot")
"""Where a box looks for them in its EFI system partition."""
needs_mtools = pytest.mark.skipif(not HAS_MTOOLS, reason="apt-get install mtools")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallRelease:
    """A release that nobody changes."""
    return small_release(tmp_path_factory.mktemp("cli") / "r")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SysfsTree:
    """A machine with a system disk, and a stick that is ``/dev/sdb``."""
    tree = SysfsTree(tmp_path / "machine")
    tree.disk("sda", DISK_BYTES, serial="SYSTEM", model="SSD", parts=2)
    tree.mount("sda2", "/")
    tree.disk("sdb", DISK_BYTES, model="Ultra", vendor="SanDisk", bus=USB, usb_serial="STICK1", parts=1)
    real = sysfs.SysfsDisks
    monkeypatch.setattr(sysfs, "SysfsDisks", lambda: real(tree.root))
    return tree


def bsfg(*arguments: str | Path, typed: str = "") -> Result:
    """Run ``bsfg image`` in this process."""
    return CliRunner().invoke(cli, ["image", *(str(argument) for argument in arguments)], input=typed)


def facts(result: Result) -> Any:
    """What it says to a program."""
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def medium(tree: SysfsTree, name: str = "sdb") -> bytes:
    """What is on a disk."""
    return (tree.root / "dev" / name).read_bytes()


def boots(content: bytes) -> bool:
    """Whether there is a table."""
    try:
        PartitionTable.parse(content[:MIB])
    except RefusedError:
        return False
    return True


def voucher(path: Path, zone: str = "") -> Path:
    """A voucher in a file."""
    made = new_voucher(key("enroller"), zone or config("single-site").zone, "ab" * 32, 1 << 42)  # type: ignore[arg-type]
    path.write_bytes(made.render())
    return path


# -- disks and verify --------------------------------------------------------------------------------------------------


def test_disks_are_listed(tree: SysfsTree) -> None:
    """With the reason against one."""
    listed = bsfg("disks").stdout
    assert "/dev/sda   SSD             SYSTEM   25.2 MB   sata        this system runs from it (/)" in listed
    assert "/dev/sdb   SanDisk Ultra   STICK1   25.2 MB   usb         -" in listed
    told = facts(bsfg("disks", "--output", "json"))["disks"]
    assert [(disk["disk"], disk["serial"], bool(disk["refused"])) for disk in told] == [
        ("/dev/sda", "SYSTEM", True),
        ("/dev/sdb", "STICK1", False),
    ]


def test_a_release_is_verified(made: SmallRelease) -> None:
    """The folder with all files, or one image alone."""
    told = facts(bsfg("verify", made.folder, "--key", made.public, "--output", "json"))
    assert (told["version"], told["profile"], len(told["files"])) == ("0.1.0", "cloud", 6)
    assert facts(bsfg("verify", made.packed, "--key", made.public, "--output", "json"))["files"] == [made.packed.name]
    text = bsfg("verify", made.folder, "--key", made.public).stdout
    assert "BSFG appliance 0.1.0 (cloud), released 2026-05-28" in text
    assert f"intact     {made.packed.name}" in text
    assert told["key"] in text


def test_another_key_is_denied(made: SmallRelease, tmp_path: Path) -> None:
    """With its own exit code; no key at all is a mistake of usage; a private key is none to verify with."""
    new_key(tmp_path / "other.key")
    denied = bsfg("verify", made.folder, "--key", tmp_path / "other.pub")
    assert (denied.exit_code, "image_unsigned" in denied.stderr) == (ExitCode.DENIED, True)
    assert bsfg("verify", made.folder).exit_code == ExitCode.USAGE
    assert "bad_key" in bsfg("verify", made.folder, "--key", made.private).stderr


def test_a_damaged_file_is_named(made: SmallRelease, tmp_path: Path) -> None:
    """Even one that flashing does not need."""
    for path in made.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    sbom = next(tmp_path.glob("*.spdx.json"))
    sbom.write_bytes(sbom.read_bytes() + b" ")
    result = bsfg("verify", tmp_path, "--key", made.public)
    assert result.exit_code == ExitCode.FAILURE
    assert sbom.name in result.stderr
    assert bsfg("verify", next(tmp_path.glob("*.zst")), "--key", made.public).exit_code == 0


# -- flash -------------------------------------------------------------------------------------------------------------


def test_a_stick_is_flashed_by_a_person(made: SmallRelease, tree: SysfsTree) -> None:
    """Model, serial number and size are shown; the serial number is typed."""
    result = bsfg("flash", made.folder, "--key", made.public, "--disk", "/dev/sdb", typed="STICK1\n")
    assert result.exit_code == 0, result.output
    for text in ("SanDisk Ultra, usb", "serial   STICK1", "size     25.2 MB", "back and compared"):
        assert text in result.stdout
    assert "Everything on /dev/sdb (SanDisk Ultra) will be lost." in result.stderr
    content = medium(tree)
    assert PartitionTable.parse(content[:MIB]) == made.image.table


def test_a_stick_is_flashed_by_a_program(made: SmallRelease, tree: SysfsTree) -> None:
    """And again, with nothing to be done."""
    options = ("flash", made.packed, "--key", made.public, "--disk", "/dev/sdb", "--yes-serial", "STICK1")
    told = facts(bsfg(*options, "--output", "json"))
    assert (told["dry_run"], told["kept_bytes"], told["disk"]["serial"]) == (False, 0, "STICK1")
    assert told["written_bytes"] == told["mapped_bytes"]
    assert told["read_back"] in {"direct", "cache dropped"}
    again = facts(bsfg(*options, "--resume", "--output", "json"))
    assert again["kept_bytes"] > again["written_bytes"]
    assert boots(medium(tree))


def test_dry_run_writes_nothing(made: SmallRelease, tree: SysfsTree, tmp_path: Path) -> None:
    """And checks everything, down to the content of the image."""
    before = medium(tree)
    result = bsfg("flash", made.folder, "--key", made.public, "--disk", "/dev/sdb", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "nothing was written; 13.6 MB would be, to /dev/sdb" in result.stdout
    told = facts(
        bsfg("flash", made.folder, "--key", made.public, "--file", tmp_path / "x", "--dry-run", "--output", "json")
    )
    assert (told["dry_run"], "written_bytes" in told) == (True, False)
    assert medium(tree) == before
    assert not (tmp_path / "x").exists()


@needs_mtools
def test_site_and_voucher_are_embedded(made: SmallRelease, tmp_path: Path) -> None:
    """In a file for a virtual machine, as large as asked for."""
    site, paper = tmp_path / "s.toml", voucher(tmp_path / "v.json")
    site.write_bytes(signed())
    target = tmp_path / "disk.raw"
    options = ("--file", target, "--size", "20M", "--site", site, "--voucher", paper, "--output", "json")
    told = facts(bsfg("flash", made.folder, "--key", made.public, *options))
    assert told["embedded"] == ["measurements.json", "site.toml", "voucher.json"]
    content = target.read_bytes()
    assert len(content) == 20 * MIB
    esp = tmp_path / "esp"
    esp.write_bytes(content[MIB : 5 * MIB])
    assert mtools("mcopy", str(esp), "::/bsfg/site.toml", "-") == site.read_bytes()
    assert mtools("mcopy", str(esp), "::/bsfg/voucher.json", "-") == paper.read_bytes()
    assert mtools("mcopy", str(esp), "::/bsfg/measurements.json", "-") == measurements(made.image)


@needs_mtools
def test_a_box_gets_the_measurements_of_its_release(made: SmallRelease, tmp_path: Path) -> None:
    """Where the box looks for them, also without a site configuration; changed ones stop the flash."""
    target = tmp_path / "disk.raw"
    options = ("--file", target, "--output", "json")
    assert facts(bsfg("flash", made.folder, "--key", made.public, *options))["embedded"] == ["measurements.json"]
    esp = tmp_path / "esp"
    esp.write_bytes(target.read_bytes()[MIB : 5 * MIB])
    assert mtools("mcopy", str(esp), f"::/{BROUGHT_AS}", "-") == measurements(made.image)
    folder = tmp_path / "changed"
    shutil.copytree(made.folder, folder)
    (folder / "measurements.json").write_bytes(measurements(made.image).replace(b"1", b"2"))
    again = ("--file", tmp_path / "second.raw", "--output", "json")
    result = bsfg("flash", folder, "--key", made.public, *again)
    assert json.loads(result.stderr.splitlines()[-1])["error"]["reason"] == Reason.BAD_IMAGE
    assert not (tmp_path / "second.raw").exists()


def test_without_mtools_a_disk_is_flashed_all_the_same(
    made: SmallRelease, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is said what is missing; with a site configuration it is refused."""
    monkeypatch.setattr("appliance.flash.embed.shutil.which", lambda _: None)
    result = bsfg("flash", made.folder, "--key", made.public, "--file", tmp_path / "disk.raw")
    assert (result.exit_code, "without  measurements.json" in result.output) == (0, True), result.output


def _site(change: Callable[[bytes], bytes]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "site.toml").write_bytes(change(signed()))
        return ["--site", str(folder / "site.toml")]

    return make


def _foreign_voucher(folder: Path) -> list[str]:
    (folder / "site.toml").write_bytes(signed())
    return ["--site", str(folder / "site.toml"), "--voucher", str(voucher(folder / "v.json", "plant-zz"))]


def _no_voucher(folder: Path) -> list[str]:
    (folder / "v.json").write_bytes(b"{}")
    return ["--voucher", str(folder / "v.json")]


BAD: dict[str, tuple[Callable[[Path], list[str]], str, Reason]] = {
    "an unsigned site configuration": (
        _site(lambda data: data.partition(b"[signature]")[0]),
        "STICK1",
        Reason.SITE_UNSIGNED,
    ),
    "a changed one": (_site(lambda data: data.replace(b"zone", b"zone ", 1)), "STICK1", Reason.SITE_UNSIGNED),
    "none": (lambda folder: ["--site", str(folder / "nothing")], "STICK1", Reason.BAD_INPUT),
    "a voucher that is none": (_no_voucher, "STICK1", Reason.BAD_VOUCHER),
    "a voucher for another zone": (_foreign_voucher, "STICK1", Reason.BAD_INPUT),
    "another serial number": (lambda _: [], "STICK2", Reason.NOT_CONFIRMED),
    "an empty serial number": (lambda _: [], "", Reason.NOT_CONFIRMED),
    "the system's disk": (lambda _: ["--disk", "/dev/sda"], "SYSTEM", Reason.DISK_REFUSED),
    "a partition": (lambda _: ["--disk", "/dev/sdb1"], "STICK1", Reason.DISK_REFUSED),
    "no disk": (lambda _: ["--disk", "/dev/sdx"], "STICK1", Reason.DISK_REFUSED),
}


@pytest.mark.parametrize("name", BAD)
def test_nothing_is_written_when_anything_is_wrong(
    made: SmallRelease, tree: SysfsTree, tmp_path: Path, name: str
) -> None:
    """Whatever it is, it is found before."""
    options, serial, reason = BAD[name]
    before = [medium(tree, disk) for disk in ("sda", "sdb")]
    more = options(tmp_path)
    disk = [] if "--disk" in more else ["--disk", "/dev/sdb"]
    result = bsfg("flash", made.folder, "--key", made.public, *disk, *more, "--yes-serial", serial, "--output", "json")
    assert result.exit_code != 0
    assert json.loads(result.stderr.splitlines()[-1])["error"]["reason"] == reason
    assert [medium(tree, disk) for disk in ("sda", "sdb")] == before


def test_nobody_typed_anything(made: SmallRelease, tree: SysfsTree) -> None:
    """The end of input is no confirmation."""
    result = bsfg("flash", made.folder, "--key", made.public, "--disk", "/dev/sdb")
    assert "not_confirmed" in result.stderr
    assert not boots(medium(tree))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--disk", "/dev/sdb", "--file", "x"),
        ("--disk", "/dev/sdb", "--size", "4G"),
        ("--file", "x", "--size", "4Q"),
    ],
)
def test_options_that_do_not_fit(made: SmallRelease, tree: SysfsTree, options: tuple[str, ...]) -> None:
    """A mistake of usage."""
    assert bsfg("flash", made.folder, "--key", made.public, *options).exit_code == ExitCode.USAGE


def test_a_file_that_is_there_or_too_small(made: SmallRelease, tmp_path: Path) -> None:
    """Files are not overwritten, unless a flash is resumed."""
    there = tmp_path / "there"
    there.write_bytes(b"precious")
    for path, size, reason in ((there, "20M", "disk_refused"), (tmp_path / "small", "15M", "disk_refused")):
        result = bsfg("flash", made.folder, "--key", made.public, "--file", path, "--size", size)
        assert reason in result.stderr
    assert there.read_bytes() == b"precious"


class _Disks(FakeDisks):
    """What happens to the disk between the first look and the last one."""

    def __init__(self, *disks: DiskFacts) -> None:
        super().__init__(*disks)
        self.looks = 0
        self.then: dict[str, object] = {}

    def facts(self, path: Path) -> DiskFacts:
        """Look."""
        self.looks += 1
        if self.looks > 1 and self.then:
            self.change("sdb", **self.then)
        return super().facts(path)


@pytest.mark.parametrize("then", [{"mounts": ("/media/x",)}, {"serial": "STICK9"}, {"size": IMAGE_BYTES - 512}])
def test_what_happens_while_somebody_types(made: SmallRelease, then: dict[str, object]) -> None:
    """The stick is mounted by the desktop, or exchanged for another one: it is not written."""
    stick = DiskFacts("sdb", Path("/dev/sdb"), "Ultra", "STICK1", "usb", DISK_BYTES)
    disks = _Disks(stick)
    job = Job.prepare(made.folder, [made.key], disks, disk=Path("/dev/sdb"))
    disks.then = then
    with pytest.raises(RefusedError) as refused:
        job.write(disks, lambda _: "STICK1")
    assert refused.value.reason is Reason.DISK_REFUSED
    assert disks.targets["sdb"].writes == []
    calm = _Disks(stick)
    prepared = Job.prepare(made.folder, [made.key], calm, disk=Path("/dev/sdb"))
    replace(prepared, embedding=Embedding({})).write(calm, lambda _: "STICK1")  # mtools need more than memory
    assert boots(bytes(calm.targets["sdb"].medium))
    assert calm.targets["sdb"].closed == 1
    with pytest.raises(RefusedError):
        Job.prepare(made.folder, [made.key], calm)
    with pytest.raises(RefusedError):
        Job.prepare(made.folder, [made.key], calm, file=FileTarget(Path("x"), 1 << 20))


# -- words -------------------------------------------------------------------------------------------------------------


def test_sizes() -> None:
    """As options and as text."""
    kind = Size()
    read = [kind.convert(text, None, None) for text in ("4096", "4K", "3M", "4G", "2T")]
    assert read == [4096, 4096, 3 * MIB, 4 << 30, 2 << 40]
    for text in ("", "0", "G", "-1", "4g", "4 G", "1e3", "٤G", "99999999T"):
        with pytest.raises(click.UsageError):
            kind.convert(text, None, None)
    assert [size_text(size) for size in (0, 13_631_488, 64_000_000_000)] == ["0.0 MB", "13.6 MB", "64.0 GB"]


def test_progress_tells_bytes_rate_and_time(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Plain lines where there is no terminal, now and then and not for every byte."""
    now = [100.0]
    monkeypatch.setattr("appliance.cli.output.time.monotonic", lambda: now[0])
    progress = Progress()
    for step in range(1, 41):
        now[0] += 0.5
        progress.show("write", step * 10_000_000, 400_000_000)
    progress.end()
    told = capsys.readouterr().err.splitlines()
    assert 1 <= len(told) <= 3
    assert told[0].startswith("write: ")
    assert "of 400.0 MB, " in told[0]
    assert " MB/s, " in told[0]
    assert told[0].endswith(" s left")
