# SPDX-License-Identifier: Apache-2.0
"""The controls of ``hardening/``: whole, with a test that exists, rendered the same each time, and not in the way."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from appliance.boundary.errors import RefusedError
from tools.image import hardening
from tools.image.hardening import build
from tools.image.hardening.data import DATA, Area, Control, all_controls, controls

CONTROL = {
    "id": "HRD-SYS-001",
    "value": "a.b=1",
    "reason": "because",
    "serves": "CR 3.4",
    "test": "tests/unit/test_a.py::test_b",
}

# Requirements of IEC 62443-4-2 that a control of the system can serve; the others are the product's own code's.
REQUIREMENTS = {
    *(f"CR 1.{number}" for number in (1, 2, 5)),
    *(f"CR 2.{number}" for number in (1, 2, 8, 9, 10, 11)),
    *(f"CR 3.{number}" for number in range(1, 13)),
    *("CR 4.1", "CR 4.2", "CR 4.3", "CR 5.1", "CR 6.1", "CR 6.2"),
    *(f"CR 7.{number}" for number in range(1, 8)),
    *("NDR 1.6", "NDR 1.13", "NDR 5.2", "NDR 5.3", "EDR 2.13", "EDR 3.11", "EDR 3.14", "HDR 2.4"),
}


@pytest.fixture(scope="module")
def everything() -> list[Control]:
    """All controls."""
    return list(all_controls())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the image gets."""
    root = tmp_path_factory.mktemp("root")
    hardening.render(root)
    return root


def written(root: Path) -> Iterator[tuple[str, str]]:
    """Path, and mode with content or target, of everything in a tree."""
    for path in sorted(root.rglob("*")):
        content = os.readlink(path) if path.is_symlink() else path.read_text("utf-8") if path.is_file() else ""
        yield str(path.relative_to(root)), f"{stat.S_IMODE(path.lstat().st_mode):o} {content}"


# -- the data ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "HRD-1"}, "has no id"),
        ({"reason": ""}, "needs a value and a reason"),
        ({"value": ""}, "needs a value and a reason"),
        ({"serves": "CR 9.1"}, "serves no requirement"),
        ({"serves": ""}, "serves no requirement"),
        ({"test": "by hand"}, "names no test"),
        ({"reason": None}, "needs reason"),
        ({"why": "x"}, "unknown field 'why'"),
        ({"value": 1}, "value must be str"),
    ],
)
def test_a_control_is_read_strictly(tmp_path: Path, change: dict[str, object], words: str) -> None:
    """Each field once, none that nobody asked for; and the one that was changed here is accepted as it was."""
    for values, fits in ((CONTROL, True), ({**CONTROL, **change}, False)):
        lines = [f"{name} = {value!r}" for name, value in values.items() if value is not None]
        (tmp_path / "sysctl.toml").write_text("[[control]]\n" + "\n".join(lines), "utf-8")
        if fits:
            assert [control.id for control in controls(Area.SYSCTL, tmp_path)] == ["HRD-SYS-001"]
        else:
            with pytest.raises(RefusedError, match=words):
                controls(Area.SYSCTL, tmp_path)


def test_an_id_is_given_once(tmp_path: Path) -> None:
    """In all files together."""
    shutil.copytree(DATA, tmp_path / "data")
    text = (tmp_path / "data/kept.toml").read_text("utf-8")
    (tmp_path / "data/kept.toml").write_text(text.replace("HRD-KEP-001", "HRD-SYS-001"), "utf-8")
    with pytest.raises(RefusedError, match=r"HRD-SYS-001.*used twice"):
        list(all_controls(tmp_path / "data"))


def test_every_requirement_is_known(everything: list[Control]) -> None:
    """By its number; and reasons are sentences, not words."""
    assert {name for control in everything for name in control.serves} <= REQUIREMENTS
    assert [
        control.id for control in everything if not control.reason.endswith((".", ")")) or len(control.reason) < 9
    ] == []


def test_every_test_exists(root: Path, everything: list[Control]) -> None:
    """A control whose attack is gone is not tested any more."""
    named = {control.test for control in everything}
    files = {name.partition("::")[0] for name in named}
    there = {
        f"{file}::{node.name}"
        for file in files
        if (root / file).is_file()
        for node in ast.walk(ast.parse((root / file).read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert sorted(named - there) == []


# -- what is made of it ------------------------------------------------------------------------------------------------


def test_the_same_data_gives_the_same_tree(tree: Path, tmp_path: Path) -> None:
    """Bytes, modes and links, whatever the umask is."""
    before = os.umask(0o077)
    try:
        hardening.render(tmp_path)
    finally:
        os.umask(before)
    assert list(written(tmp_path)) == list(written(tree))
    modes = {text.partition(" ")[0] for _, text in written(tree)}
    assert modes == {"644", "755", "777"}  # files, folders, links


def test_rendered_files(tree: Path) -> None:
    """Settings, modules, masks and drop-ins are where systemd looks for them."""
    sysctl = (tree / build.SYSCTL).read_text("utf-8")
    assert "# HRD-SYS-006\nkernel.yama.ptrace_scope = 3\n" in sysctl
    modprobe = (tree / build.MODPROBE).read_text("utf-8")
    assert "install sctp /usr/bin/false\n" in modprobe
    assert "blacklist usb_storage\n" in modprobe
    assert "install usb_storage" not in modprobe
    assert "nft_ct\n" in (tree / build.MODULES_LOAD).read_text("utf-8")
    assert os.readlink(tree / "etc/systemd/system/debug-shell.service") == "/dev/null"
    keeper = (tree / "usr/lib/systemd/system/bsfg-keeper.service.d/50-sandbox.conf").read_text("utf-8")
    assert "DeviceAllow=/dev/tpmrm0 rw\n" in keeper
    journald = (tree / "usr/lib/systemd/journald.conf.d/50-bsfg.conf").read_text("utf-8")
    assert journald.count("[Journal]") == 3
    for path in tree.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.suffix != ".message":
            assert path.read_text("utf-8").startswith("# SPDX-License-Identifier: Apache-2.0\n"), path


def test_the_kernel_command_line() -> None:
    """What the design of the boot rests on is there, once; it is the same for all; nothing contradicts it."""
    line = hardening.kernel_command_line("cloud")
    assert line == hardening.kernel_command_line("metal") == hardening.kernel_command_line("test")
    assert {
        "systemd.import_credentials=no",
        "systemd.gpt_auto=no",
        "dm_verity.require_signatures=1",
        "systemd.verity_root_options=root-hash-signature=/etc/roothash.p7s",
        "lockdown=integrity",
        "module.sig_enforce=1",
    } <= set(line)
    names = [word.partition("=")[0] for word in line]
    assert {name for name in names if names.count(name) > 1} == {"console"}
    assert len(" ".join(line)) < 1500  # of 2048, with the root hash and what a firmware adds
    with pytest.raises(ValueError, match="no profile"):
        hardening.kernel_command_line("other")


def test_settings_are_given_once() -> None:
    """A setting twice would be one that does not count."""
    names = [control.value.partition("=")[0] for control in controls(Area.SYSCTL)]
    assert len(set(names)) == len(names)
    modules = [name for control in controls(Area.MODULES) for name in control.words]
    assert len(set(modules)) == len(modules)


def test_masked_units_are_not_ours(tree: Path) -> None:
    """And none of them is started by what is."""
    masked = hardening.masked_units()
    assert len(masked) > 100
    assert not [unit for unit in masked if unit.startswith(("bsfg", "nats-facts", "nats-control"))]
    preset = (tree / "usr/lib/systemd/system-preset/00-bsfg.preset").read_text("utf-8").splitlines()
    enabled = [line.split()[1] for line in preset if line.startswith("enable ")]
    assert enabled
    assert set(enabled) & set(masked) == set()
    assert preset[-1] == "disable *"


def test_what_is_kept_is_not_removed() -> None:
    """The two lists agree."""
    removed = [path.rpartition("/")[2] for path in hardening.removed_paths("cloud") if path.startswith("usr/bin/")]
    removed += [path.rpartition("/")[2] for path in hardening.removed_paths("cloud") if path.startswith("usr/sbin/")]
    kept = [name for name in build.kept_programs("test") if "*" not in name]
    assert {name for name in kept if any(fnmatchcase(name, pattern) for pattern in removed)} == set()
    removed = [path.rpartition("/")[2] for path in hardening.removed_paths("initrd") if "bin/" in path]
    kept = build.kept_programs("initrd")
    assert {name for name in kept if any(fnmatchcase(name, pattern) for pattern in removed)} == set()
    assert not {"python3", "bsfg", "nats-server", "systemd-tty-ask-password-agent", "systemd-ask-password"} & set(kept)
    assert "qemu-ga" not in build.kept_programs("cloud")
    assert "qemu-ga" in build.kept_programs("test")


def test_patterns_mean_the_same_to_a_shell() -> None:
    """The image build expands them with bash: no braces, nothing that leaves the root."""
    for profile in ("cloud", "metal", "test", "initrd"):
        paths = hardening.removed_paths(profile)
        assert paths
        assert not [path for path in paths if path.startswith("/") or ".." in path or set(path) & set("{}?!$`\\ ")]


def test_usb_is_off_until_asked_for(tree: Path) -> None:
    """By text alone: the small kernel of the virtual machines has no USB, and no box was at hand."""
    denied = (tree / build.MODPROBE).read_text("utf-8")
    for driver in ("usb_storage", "uas"):
        assert f"\nblacklist {driver}\n" in denied  # not by being put in
        assert f"\ninstall {driver} " not in denied  # but by name
    for driver in ("usbnet", "cdc_ether", "rndis_host", "cdc_acm", "usbserial"):
        assert f"\ninstall {driver} /usr/bin/false\n" in denied
    unit = (tree / "usr/lib/systemd/system/bsfg-usb.service").read_text("utf-8")
    assert "ExecStart=/usr/sbin/modprobe --all usb-storage uas\n" in unit
    assert "[Install]" not in unit
    rules = (tree / "usr/lib/udev/rules.d/10-bsfg-usb.rules").read_text("utf-8")
    assert 'ATTR{bInterfaceClass}!="03|08|09", ATTR{authorized}="0"\n' in rules


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_prune(tmp_path: Path) -> None:
    """What is listed and what is not named goes; what stays loses setuid and write permission for all."""
    files = {
        "usr/bin/bash": 0o755,
        "usr/bin/unheard-of": 0o755,
        "usr/bin/python3.13": 0o755,
        "usr/bin/mount": 0o4755,
        "usr/sbin/nft": 0o755,
        "usr/sbin/sulogin": 0o755,
        "usr/libexec/deeper/nft": 0o755,
        "usr/libexec/deeper/helper": 0o755,
        "usr/lib/modules/6.12/kernel/net/sctp/sctp.ko.xz": 0o644,
        "usr/lib/modules/6.12/kernel/net/ipv4/udp_diag.ko.xz": 0o644,
        "usr/lib/apt/methods/https": 0o755,
        "usr/lib/bsfg/open": 0o666,
    }
    for name, mode in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        (tmp_path / name).chmod(mode)
    (tmp_path / "usr/bin/python3").symlink_to("python3.13")
    (tmp_path / "usr/bin/sh").symlink_to("bash")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp").chmod(0o1777)
    changed = hardening.prune(tmp_path, "cloud")
    left = {name: text.partition(" ")[0] for name, text in written(tmp_path) if not (tmp_path / name).is_dir()}
    assert left == {
        "usr/bin/python3.13": "755",
        "usr/bin/python3": "777",
        "usr/bin/mount": "755",
        "usr/sbin/nft": "755",
        "usr/libexec/deeper/nft": "755",
        "usr/lib/modules/6.12/kernel/net/ipv4/udp_diag.ko.xz": "644",
        "usr/lib/bsfg/open": "664",
    }
    assert {"usr/bin/bash", "usr/bin/sh", "usr/bin/unheard-of", "usr/bin/mount", "usr/lib/bsfg/open"} <= set(changed)
    assert stat.S_IMODE((tmp_path / "tmp").stat().st_mode) == 0o1777
    assert hardening.prune(tmp_path, "cloud") == []
    hardening.prune(tmp_path, "initrd")
    programs = {path.name for path in (tmp_path / "usr").rglob("*") if path.parent.name in {"bin", "sbin", "deeper"}}
    assert programs == {"mount"}, "the initrd has a list of its own"


def test_nothing_that_is_removed_from_python_is_used(root: Path, tmp_path: Path) -> None:
    """Every module of ours that runs on a box can be imported without the parts of Python that the image has not."""
    patterns = [path for path in hardening.removed_paths("cloud") if path.startswith("usr/lib/python3*/")]
    gone = {Path(path).name.removesuffix(".py") for path in patterns} - {"sitecustomize"}
    assert {"ensurepip", "pdb", "xmlrpc"} <= gone
    program = f"""
import importlib, pkgutil, sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {gone!r}:
            raise ModuleNotFoundError('removed from the image: ' + name, name=name)
sys.meta_path.insert(0, Gone())
import appliance
for found in pkgutil.walk_packages(appliance.__path__, 'appliance.'):
    if not found.name.startswith({("appliance.dev", "appliance.cli", "appliance.firmware", "appliance.flash")!r}):
        if not found.name.endswith('__main__'):
            importlib.import_module(found.name)
"""
    outcome = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert not outcome.returncode, outcome.stderr
    assert importlib.util.find_spec("pdb") is not None


def test_data_files_are_those_that_are_read() -> None:
    """A file that nobody reads would be thought to count."""
    assert {path.stem for path in DATA.glob("*.toml")} == {str(area) for area in Area}
    for path in DATA.glob("*.toml"):
        assert set(tomllib.loads(path.read_text("utf-8"))) == {"control"}
