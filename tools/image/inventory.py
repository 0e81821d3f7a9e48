# SPDX-License-Identifier: Apache-2.0
"""The two lists that a release's bill of materials is made from: every file of an image, and who brought it.

Files of the root stand with their path on the box. What starts it stands below ``/uki`` (``linux``, ``stub``,
``initrd/…``) and ``/esp``. A file that belongs to nobody ends the build.
"""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from appliance.firmware.pe import authenticode, sections
from tools.image import esp, hardening
from tools.image.contents import Node, extract_root, read_initrd, read_tree
from tools.image.dpkg import Dpkg, Linked, Package
from tools.image.errors import BuildError
from tools.image.gobuild import GoBuild
from tools.image.hardening.build import INITRD, PROGRAM_FOLDERS
from tools.image.launcher import PROGRAM, STOCK, check_interpreters
from tools.image.owners import PRODUCT, Distribution, Made, Owners, distributions, python_owners
from tools.image.places import Places
from tools.image.release.inputs import DEBIAN_SOURCE, GO, GO_LIBRARY, RootLinked
from tools.image.toolstree import ToolsTree
from tools.image.uki import KERNEL, SIGNATURE_FILE

STUB: Final = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"
_BOOT_PACKAGE: Final = "systemd-boot-efi"

MADE: Final = (
    Made("/etc/machine-id", "empty or 'uninitialized': the box has its own from its firmware"),
    Made("/etc/passwd", "users of base-passwd and sysusers.d"),
    Made("/etc/shadow", "users of base-passwd and sysusers.d, all locked"),
    Made("/etc/group", "groups of base-passwd and sysusers.d"),
    Made("/etc/gshadow", "groups of base-passwd and sysusers.d, all locked"),
    Made("/etc/nsswitch.conf", "where names are looked up, by the maintainer script of libc-bin"),
    Made("/etc/pam.d/common-*", "from the profiles of libpam-runtime, by pam-auth-update"),
    Made("/etc/ld.so.cache", "index of the libraries, by ldconfig"),
    Made("/usr/lib/os-release", "of base-files, with name and version of the image, by mkosi"),
    Made("/usr/lib/clock-epoch", "empty; its time is the earliest that the clock may show"),
    Made("/usr/lib/modules/*/modules.*", "index of the kernel's modules, by depmod"),
)
"""Of root and initrd."""
MADE_IN_ROOT: Final = (
    *MADE,
    Made("/etc/audit/audit.rules", "empty rules, by the maintainer script of auditd"),
    Made("/etc/chrony/chrony.keys", "no keys, a comment, by the maintainer script of chrony"),
    Made("/etc/locale.conf", "language C.UTF-8, by mkosi"),
    Made("/etc/ssl/certs/ca-certificates.crt", "the files of ca-certificates in one, by update-ca-certificates"),
)
MADE_IN_TEST: Final = (
    *MADE_IN_ROOT,
    Made(f"/{STOCK}", "the interpreter of python3.13-minimal at another place, for the tests"),
)
MADE_IN_INITRD: Final = (*MADE, Made(f"/{SIGNATURE_FILE}", "signature of the root hash, by the verity key"))
MADE_OF_MICROCODE: Final = (
    Made("/kernel/x86/microcode/*.bin", "files of intel-microcode and amd64-microcode in one, by mkosi"),
)
MADE_ON_ESP: Final = (
    Made("/loader/entries.srel", "says to systemd-boot which kind of entries there are"),
    Made("/loader/random-seed", "empty: the box makes its own"),
)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All of an image. :param files: with their owner. :param dpkg: of root and initrd.

    :param root: the unpacked root. :param python: what is in it of Python distributions.
    :param linked: by owner, what is linked into its programs: what :func:`linked` found.
    """

    files: tuple[tuple[Node, str], ...]
    dpkg: tuple[Dpkg, Dpkg]
    python: tuple[Distribution, ...]
    root: Path
    linked: Mapping[str, tuple[RootLinked, ...]] = field(default_factory=dict)

    def packages(self) -> list[Package]:
        """Debian packages that have at least one file in the image, sorted. :raises BuildError: two versions of one."""
        used = {owner.removeprefix("deb:") for _, owner in self.files if owner.startswith("deb:")}
        found: dict[str, Package] = {}
        for dpkg in self.dpkg:
            for name in sorted(used & set(dpkg.packages)):
                one = dpkg.packages[name]
                if found.setdefault(name, one).version != one.version:
                    raise BuildError(
                        f"{name} is in the root as {found[name].version} and in the initrd as {one.version}",
                        "the mirror changed while the image was built; build it anew",
                    )
        if missing := used - set(found):
            raise BuildError(f"packages that dpkg does not know: {', '.join(sorted(missing))}")
        return [found[name] for name in sorted(found)]

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write ``files.json`` and ``packages.json`` as :class:`tools.image.release.ReleaseInputs` has them."""
        files, packages = folder / "files.json", folder / "packages.json"
        rows = [
            {"path": node.path, "owner": owner, "sha256": node.sha256, "sha1": node.sha1, "size": node.size}
            for node, owner in self.files
        ]
        files.write_text(_lines(rows), "utf-8")
        rows = [*map(_debian, self.packages()), *_python(self.python)]
        for row in rows:
            owner = f"{'py' if row['architecture'] == 'python' else 'deb'}:{row['name']}"
            if found := self.linked.get(owner):
                row["linked"] = [asdict(one) for one in found]
        packages.write_text(_lines(rows), "utf-8")
        return files, packages


def take(places: Places, tools: ToolsTree, profile: str) -> Inventory:
    """Look through the image of a profile that was built last. :raises BuildError: a file belongs to nobody."""
    work, out = places.work(profile), places.out(profile)
    root = extract_root(tools, out / "appliance.root.raw", work / "contents/root")
    dpkg = Dpkg.read(work / "lists/dpkg"), Dpkg.read(work / "lists/dpkg-initrd")
    python = distributions(places.build / "work/python/tree")
    launcher = work / "lists/launcher"
    trees = (work / "own/root", work / "root", launcher, places.build / "work/python/tree")
    of_root = Owners((dpkg[0],), trees, python_owners(python), MADE_IN_TEST if profile == "test" else MADE_IN_ROOT)
    of_initrd = Owners((dpkg[1], dpkg[0]), (work / "own/initrd",), None, MADE_IN_INITRD)
    nodes, initrd = read_tree(root), read_initrd(parts_of(out / "appliance.efi")[".initrd"])
    for part, found_there in ((profile, nodes), (INITRD, initrd)):
        check_removed(part, found_there)
        check_programs(part, found_there)
        check_libraries(part, found_there)
    check_interpreters(profile, nodes, launcher / PROGRAM, dpkg[0].md5[f"/{PROGRAM}"])
    if taken := {"/uki", "/esp"} & {node.path for node in nodes}:
        raise BuildError(f"the root has a folder {', '.join(sorted(taken))}, which the list of files needs")
    found = [
        *_owned(nodes, of_root),
        *_owned(initrd, of_initrd, "/uki/initrd"),
        *_boot(places, tools, profile, dpkg[0]),
    ]
    files = tuple(sorted(found, key=lambda one: one[0].path))
    return Inventory(files, dpkg, tuple(python), root, linked(files, dpkg))


def linked(files: Iterable[tuple[Node, str]], dpkg: Sequence[Dpkg]) -> dict[str, tuple[RootLinked, ...]]:
    """By owner, what is linked into its programs, and so is in the image without a file of its own.

    A Go program says it itself; one that was built without modules, as Debian builds them, has its package say it.

    :raises BuildError: nobody says it, or the package names another compiler than the program.
    """
    found: dict[str, set[RootLinked]] = {}
    packages = {f"deb:{name}": package for one in dpkg for name, package in one.packages.items()}
    for node, owner in files:
        said = packages[owner].linked if owner in packages else ()
        them = [RootLinked(DEBIAN_SOURCE, one.source, one.version) for one in said]
        if node.go is not None and node.go.main is not None:
            them += [RootLinked(GO, GO_LIBRARY, node.go.go)]
            them += [RootLinked(GO, module.path, module.version) for module in node.go.modules]
        elif node.go is not None and not any(_compiled(one, node.go) for one in said):
            named = ", ".join(f"{one.source} {one.version}" for one in said) or "nothing"
            why = f"made by Go {node.go.go}, and nobody says of which modules; {owner} says {named}"
            raise BuildError(f"{node.path}: {why}", "its package must have Static-Built-Using")
        if them:
            found.setdefault(owner, set()).update(them)
    return {owner: tuple(sorted(them)) for owner, them in sorted(found.items())}


def _compiled(one: Linked, build: GoBuild) -> bool:
    """Whether it is the compiler that made the program."""
    return one.source.startswith("golang-") and one.version.partition("-")[0] == build.go


def _owned(nodes: Sequence[Node], owners: Owners, below: str = "") -> Iterator[tuple[Node, str]]:
    found = owners.assign(nodes)
    for node in nodes:
        if node.regular:
            yield replace(node, path=below + node.path), found[node.path]


def parts_of(uki: Path) -> dict[str, bytes]:
    """The sections of a kernel image by their name."""
    return {one.name: one.data for one in sections(uki.read_bytes())}


def check_removed(profile: str, nodes: Iterable[Node]) -> None:
    """Nothing is there that ``hardening/removed.toml`` takes away. :param profile: or the initrd's name.

    :raises BuildError: something is.
    """
    patterns = [re.compile(_expression(path)) for path in hardening.removed_paths(profile)]
    if left := [node.path for node in nodes if any(one.fullmatch(node.path) for one in patterns)]:
        raise BuildError(f"the image has what hardening removes: {', '.join(left[:10])}", "see image/mkosi.finalize")


def check_programs(part: str, nodes: Iterable[Node]) -> None:
    """Where programs are looked for there are those of ``hardening/kept.toml``, and no others. :param part: as above.

    :raises BuildError: one too many, which got there after the pruning; or one too few: what calls it would fail.
    """
    folders = tuple(f"/{folder}/" for folder in PROGRAM_FOLDERS)
    programs = [node.path for node in nodes if node.path.startswith(folders) and _is_file(node)]
    found = {path.rpartition("/")[2]: path for path in programs}
    kept = hardening.kept_programs(part)
    if more := sorted(path for name, path in found.items() if not any(fnmatchcase(name, each) for each in kept)):
        raise BuildError(f"programs that nobody listed ({part}): {', '.join(more[:10])}", "see hardening/kept.toml")
    if less := [each for each in kept if not any(fnmatchcase(name, each) for name in found)]:
        raise BuildError(f"programs that are not in the image ({part}): {', '.join(less[:10])}", "add their package")


def _is_file(node: Node) -> bool:
    return node.regular or stat.S_ISLNK(node.mode)


def check_libraries(part: str, nodes: Sequence[Node]) -> None:
    """Every library that a program asks for is there. :raises BuildError: one is not: it would not start."""
    there = {node.soname for node in nodes} | {node.path.rpartition("/")[2] for node in nodes}
    if missing := [f"{name}, for {node.path}" for node in nodes for name in node.needs if name not in there]:
        raise BuildError(f"libraries that are not in the image ({part}): {'; '.join(missing[:10])}", "add its package")


def _expression(pattern: str) -> str:
    """A pattern of ``hardening/removed.toml``: ``*`` is anything within a folder."""
    return "/" + "[^/]*".join(map(re.escape, pattern.split("*")))


def _boot(places: Places, tools: ToolsTree, profile: str, dpkg: Dpkg) -> Iterator[tuple[Node, str]]:
    """What is outside of root and initrd: kernel, stub, and the ESP."""
    out, work = places.out(profile), places.work(profile)
    packaged = (work / KERNEL).read_bytes()
    kernel = parts_of(out / "appliance.efi")[".linux"]
    yield _signed("/uki/linux", kernel, packaged), f"deb:{_kernel_package(dpkg, packaged)}"
    version = _same_version(dpkg, Dpkg.read_status(tools.root / "var/lib/dpkg/status"))
    stub = (tools.root / STUB).read_bytes()
    yield Node.of_bytes("/uki/stub", 0o100644, stub), f"deb:{version}"
    microcode = parts_of(out / "appliance.efi").get(".ucode", b"")
    yield from _owned(read_initrd(microcode), Owners((), (), None, MADE_OF_MICROCODE), "/uki/microcode")
    tree = esp.copy_out(tools, out / "appliance.raw", work / "contents/esp")
    own = Owners((), (work / "own/root/boot",), None, MADE_ON_ESP)
    for node in read_tree(tree):
        if node.path[1:] in esp.LOADERS:
            loader, original = ((tree / node.path[1:]), tools.root / str(esp.LOADER)[1:])
            yield _signed(f"/esp{node.path}", loader.read_bytes(), original.read_bytes()), f"deb:{version}"
        elif not node.path.startswith("/EFI/Linux/"):  # its parts are listed
            yield from _owned([node], own, "/esp")


def _signed(path: str, found: bytes, packaged: bytes) -> Node:
    """A program that is packaged and carries our signature besides. :raises BuildError: it is another program."""
    if authenticode(found) != authenticode(packaged):
        raise BuildError(f"{path} is not the program of its package with a signature")
    return Node.of_bytes(path, 0o100644, found)


def _kernel_package(dpkg: Dpkg, vmlinuz: bytes) -> str:
    digest = Node.of_bytes("", 0, vmlinuz).md5
    for path, name in dpkg.owners.items():
        if re.fullmatch(r"/boot/vmlinuz-.+", path) and dpkg.md5.get(path) == digest:
            return name
    raise BuildError("no package has the kernel that was kept beside dpkg's lists")


def _same_version(root: Dpkg, tools: Dpkg) -> str:
    """Stub and loader are taken from the tools; they are the same package as in the root."""
    versions = {one.packages[_BOOT_PACKAGE].version if _BOOT_PACKAGE in one.packages else "-" for one in (root, tools)}
    if len(versions) > 1:
        raise BuildError(
            f"{_BOOT_PACKAGE} is in the tools and in the image in different versions: {', '.join(sorted(versions))}",
            "remove build/image/tools, so that the tools are installed anew",
        )
    return _BOOT_PACKAGE


def _debian(package: Package) -> dict[str, Any]:
    return {
        "name": package.name,
        "version": package.version,
        "architecture": package.architecture,
        "source": package.source,
        "licence": package.licence,
    }


def _python(found: Iterable[Distribution]) -> Iterator[dict[str, Any]]:
    for one in found:
        if one.name != PRODUCT:
            yield {
                "name": one.name,
                "version": one.version,
                "architecture": "python",
                "source": "",
                "licence": one.licence,
            }


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    """A JSON list with a row a line."""
    return "[\n" + ",\n".join(json.dumps(row, sort_keys=True) for row in rows) + "\n]\n"
