# SPDX-License-Identifier: Apache-2.0
"""From controls to what the image build takes: files, the kernel command line, what is deleted, what is masked.

All of it is a function of ``hardening/``: no clock, no environment, files in a fixed order with fixed modes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from tools.image.hardening import sandbox
from tools.image.hardening.data import DATA, Area, Control, controls

PROFILES: Final = ("cloud", "metal", "test")
INITRD: Final = "initrd"

SYSCTL: Final = "usr/lib/sysctl.d/60-bsfg.conf"
MODPROBE: Final = "usr/lib/modprobe.d/60-bsfg.conf"
MODULES_LOAD: Final = "usr/lib/modules-load.d/60-bsfg.conf"
FIREWALL: Final = "usr/lib/bsfg/firewall.nft"
DEVICE_RULES: Final = "usr/lib/bsfg/firewall-device"
MASKS: Final = "etc/systemd/system"
PROGRAM_FOLDERS: Final = ("usr/bin", "usr/sbin", "usr/libexec")

# Every name that a network device of a box can have (appliance/site).
DEVICES: Final = ("plant-bond", "plant0", "uplink-bond", "uplink0", *(f"port{number}" for number in range(8)))

_LICENCE: Final = "# SPDX-License-Identifier: Apache-2.0"
_HEAD: Final = f"{_LICENCE}\n# Generated from hardening/; docs/reference/hardening.md says why each line is there.\n"
_FILE_MODE: Final = 0o644
_FOLDER_MODE: Final = 0o755


def render(root: Path, data: Path = DATA) -> None:
    """Write all files of the hardening below ``root``; what they are laid over is the image's root.

    :raises RefusedError: ``bad_input``: the data is wrong.
    """
    texts = dict(_texts(data))
    for name in sorted(texts):
        _write(root, name, texts[name])
    for unit in masked_units(data):
        _folders(root, f"{MASKS}/{unit}")
        (root / MASKS / unit).symlink_to("/dev/null")


def kernel_command_line(profile: str, data: Path = DATA) -> list[str]:
    """The parameters of the signed kernel command line, in order; every profile has the same.

    :raises ValueError: there is no such profile.
    """
    _check(profile, PROFILES)
    return [word for control in controls(Area.CMDLINE, data) for word in control.words]


def removed_paths(profile: str, data: Path = DATA) -> list[str]:
    """Patterns (``*`` within a folder) below the root of a profile, or of the initrd: what is deleted from it.

    :raises ValueError: there is no such profile.
    """
    _check(profile, (*PROFILES, INITRD))
    wanted = {"both", "initrd" if profile == INITRD else "root"}
    found = [path for c in controls(Area.REMOVED, data) if c.extra["from"] in wanted for path in c.words]
    if profile != INITRD:
        denied = (path for c in controls(Area.MODULES, data) for path in c.extra["paths"].split())
        found += [f"usr/lib/modules/*/kernel/{path}" for path in denied]
    return found


def kept_programs(profile: str, data: Path = DATA) -> list[str]:
    """Patterns of the programs that stay in ``usr/bin`` and ``usr/sbin`` of a profile, or of the initrd.

    All others are deleted. :raises ValueError: there is no such profile.
    """
    _check(profile, (*PROFILES, INITRD))
    wanted = {INITRD: {INITRD}, "test": {"root", "test"}}.get(profile, {"root"})
    return [name for c in controls(Area.KEPT, data) if c.extra["from"] in wanted for name in c.words]


def masked_units(data: Path = DATA) -> list[str]:
    """Units that cannot be started on a box; :func:`render` makes their links."""
    return sorted({unit for c in controls(Area.SYSTEM, data) if c.extra["kind"] == "mask" for unit in c.words})


def prune(root: Path, profile: str, data: Path = DATA) -> list[str]:
    """Delete from a finished root what has no place on a box; take setuid and write permission for all from the rest.

    :param root: a tree that the caller may change. :returns: what was deleted or changed, sorted.
    """
    gone = [path for pattern in removed_paths(profile, data) for path in sorted(root.glob(pattern))]
    kept = kept_programs(profile, data)
    gone += [path for path in _programs(root) if not any(fnmatchcase(path.name, name) for name in kept)]
    changed = {str(path.relative_to(root)) for path in gone}
    for path in gone:
        _delete(path)
    changed |= {str(path.relative_to(root)) for path in root.rglob("*") if _tame(path)}
    return sorted(changed)


def _check(profile: str, known: Iterable[str]) -> None:
    if profile not in known:
        raise ValueError(f"no profile {profile!r}")


def _programs(root: Path) -> Iterator[Path]:
    """Every program of the folders where programs are looked for, and of folders in them; links too."""
    for folder in PROGRAM_FOLDERS:
        if (root / folder).is_dir() and not (root / folder).is_symlink():
            yield from (path for path in sorted((root / folder).rglob("*")) if path.is_symlink() or path.is_file())


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for inner in sorted(path.iterdir()):
            _delete(inner)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _tame(path: Path) -> bool:
    """Take setuid, setgid and write permission for all from a file; whether it had any of them."""
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        return False
    unwanted = stat.S_ISUID | stat.S_ISGID if stat.S_ISREG(mode) else 0
    if not mode & stat.S_ISVTX:
        unwanted |= stat.S_IWOTH
    if not mode & unwanted:
        return False
    path.chmod(stat.S_IMODE(mode) & ~unwanted)
    return True


def _texts(data: Path) -> Iterator[tuple[str, str]]:
    """Path below the root and text of every file."""
    yield SYSCTL, _HEAD + "".join(_noted(c, _assignment(c.value)) for c in controls(Area.SYSCTL, data))
    modules = controls(Area.MODULES, data)
    yield MODPROBE, _HEAD + "".join(_noted(c, _denials(c)) for c in modules if c.extra["load"] != "boot")
    yield MODULES_LOAD, _HEAD + "".join(_noted(c, c.words) for c in modules if c.extra["load"] == "boot")
    for device in DEVICES:
        yield f"{DEVICE_RULES}/{device}.nft", device_rules(device)
    for path in sorted((data / "files").rglob("*")):
        if path.is_file():
            yield str(path.relative_to(data / "files")), path.read_text("utf-8")
    for unit, text in sandbox.drop_ins(controls(Area.SANDBOX, data)):
        yield f"usr/lib/systemd/system/{unit}.d/50-sandbox.conf", _HEAD + text
    yield from _system_files(controls(Area.SYSTEM, data))


def _system_files(system: list[Control]) -> Iterator[tuple[str, str]]:
    """Controls with the same file stand in it one after the other."""
    texts: dict[str, str] = {}
    for control in system:
        if control.extra["kind"] == "file":
            name = control.extra["file"]
            texts[name] = texts.get(name, _HEAD) + _noted(control, control.value.splitlines())
    yield from texts.items()


def _noted(control: Control, lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in ["", f"# {control.id}", *lines])


def _assignment(value: str) -> list[str]:
    """A kernel setting as sysctl.d has it."""
    name, _, setting = value.partition("=")
    return [f"{name} = {setting}"]


def _denials(control: Control) -> Iterator[str]:
    """``blacklist`` stops loading by alias; ``install`` stops loading by name as well, for no such program is there."""
    for module in control.words:
        yield f"blacklist {module}"
        if control.extra["load"] != "asked":
            yield f"install {module} /usr/bin/false"


def device_rules(device: str) -> str:
    """What puts the judge onto a device, however often it is loaded."""
    return (
        f"{_HEAD}table netdev bsfg {{\n"
        f"    chain {device} {{\n"
        f'        type filter hook egress device "{device}" priority filter; policy drop;\n'
        "    }\n}\n"
        f"flush chain netdev bsfg {device}\n"
        f"add rule netdev bsfg {device} jump judge\n"
    )


def _folders(root: Path, name: str) -> None:
    """Make the folders above a file, each with its mode, whatever the umask."""
    for parent in reversed(Path(name).parents[:-1]):
        (root / parent).mkdir(exist_ok=True)
        (root / parent).chmod(_FOLDER_MODE)


def _write(root: Path, name: str, text: str) -> None:
    _folders(root, name)
    path = root / name
    path.write_text(text, "utf-8")
    path.chmod(_FILE_MODE)
