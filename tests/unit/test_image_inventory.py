# SPDX-License-Identifier: Apache-2.0
"""Every file of an image has an owner, and what was changed, added or left over ends the build. On a made-up root."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard

from tests.efi import efi_program, with_signature
from tools.image import hardening, inventory
from tools.image.contents import Node, read_initrd, read_tree
from tools.image.dpkg import Dpkg, Package, licence_of, merged
from tools.image.elf import libraries
from tools.image.errors import BuildError
from tools.image.hardening.build import INITRD, kept_programs
from tools.image.inventory import Inventory, check_libraries, check_programs, check_removed
from tools.image.notice import notice
from tools.image.owners import PRODUCT, Made, Owners, distributions, python_owners
from tools.image.release.inputs import RootLinked, read_root

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Multi-Arch: same
Source: glibc (2.41-12)
Version: 2.41-12+deb13u1
Conffiles:
 /etc/gai.conf 11111111111111111111111111111111
Description: C library
 more text

Package: gone
Status: deinstall ok config-files
Architecture: all
Version: 1

Package: tool
Status: install ok installed
Architecture: all
Version: 7
"""
SITE = "usr/lib/bsfg/venv/lib/python3.13/site-packages"


def md5(data: bytes) -> str:
    """As dpkg has it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def put(path: Path, data: bytes, mode: int = 0o644) -> None:
    """A file, with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """What ``mkosi.postinst`` keeps of dpkg's database."""
    folder = tmp_path / "dpkg"
    put(folder / "status", STATUS.encode())
    put(folder / "libc6:amd64.list", b"/.\n/lib\n/lib/libc.so\n/etc/gai.conf\n/usr/lib/py.py\n")
    put(folder / "libc6:amd64.md5sums", f"{md5(b'libc')}  lib/libc.so\n{md5(b'py')}  usr/lib/py.py\n".encode())
    put(folder / "gone.list", b"/usr/bin/gone\n")
    put(folder / "tool.list", b"/usr/bin/tool\n")
    put(
        folder / "copyright/libc6", b"Format: dep5\n\nFiles: *\nLicense: LGPL-2.1+\n\nFiles: x\nLicense: GPL-2 or MIT\n"
    )
    put(folder / "copyright/tool", b"This is free software.\n")
    return folder


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A tree with two Python distributions, one of them the product."""
    tree = tmp_path / "python"
    for name, module in (("Other-Thing", "other.py"), (PRODUCT, "appliance/__init__.py")):
        folder = tree / SITE / f"{name.replace('-', '_')}-1.0.dist-info"
        put(tree / SITE / module, b"pass\n")
        put(folder / "METADATA", f"Metadata-Version: 2.4\nName: {name}\nVersion: 1.0\nLicense: MIT\n\nAbout\n".encode())
        put(folder / "RECORD", f"{module},sha256=x,5\n../../../outside,,\n{folder.name}/RECORD,,\n".encode())
        put(folder / "licenses/LICENSE", f"terms of {name}\n".encode())
    return tree


def owners(kept: Path, python: Path, tmp_path: Path) -> Owners:
    """All kinds of owners."""
    own = tmp_path / "own"
    put(own / "usr/lib/bsfg/image.json", b"{}")
    put(own / "usr/bin/tool", b"ours")
    made = (Made("/etc/machine-id", "made on the box"),)
    return Owners((Dpkg.read(kept),), (own,), python_owners(distributions(python)), made)


def node(path: str, data: bytes, mode: int = 0o100644) -> Node:
    """A regular file."""
    return Node.of_bytes(path, mode, data)


# -- owners ------------------------------------------------------------------------------------------------------------


def test_every_kind_of_owner(kept: Path, python: Path, tmp_path: Path) -> None:
    """Packages, byte code, distributions, our own, and what the build makes, each with its reason."""
    found = owners(kept, python, tmp_path).assign(
        [
            node("/usr/lib/libc.so", b"libc"),
            node("/usr/lib/__pycache__/py.cpython-313.pyc", b"code"),
            node(f"/{SITE}/other.py", b"pass\n"),
            node(f"/{SITE}/__pycache__/other.cpython-313.pyc", b"code"),
            node(f"/{SITE}/appliance/__init__.py", b"pass\n"),
            node("/usr/lib/bsfg/image.json", b"{}"),
            node("/etc/machine-id", b""),
            Node("/usr", 0o040755),
            Node("/lib", 0o120777, target="usr/lib"),
        ]
    )
    assert found == {
        "/usr/lib/libc.so": "deb:libc6",
        "/usr/lib/__pycache__/py.cpython-313.pyc": "generated:byte code of a file of libc6",
        f"/{SITE}/other.py": "py:Other-Thing",
        f"/{SITE}/__pycache__/other.cpython-313.pyc": "py:Other-Thing",
        f"/{SITE}/appliance/__init__.py": "own",
        "/usr/lib/bsfg/image.json": "own",
        "/etc/machine-id": "generated:made on the box",
    }


@pytest.mark.parametrize(
    ("stray", "said"),
    [
        (node("/usr/bin/backdoor", b"x"), "/usr/bin/backdoor"),
        (node("/usr/lib/libc.so", b"other"), "/usr/lib/libc.so (not as in package libc6)"),
        (node("/etc/gai.conf", b"changed"), "/etc/gai.conf (not as in package libc6)"),
        (node("/usr/bin/gone", b"x"), "/usr/bin/gone"),
        (node("/usr/lib/bsfg/image.json", b"{ }"), "/usr/lib/bsfg/image.json"),
        (node(f"/{SITE}/stranger.py", b"x"), f"/{SITE}/stranger.py"),
        (node(f"/{SITE}/__pycache__/stranger.cpython-313.pyc", b"x"), "stranger.cpython-313.pyc"),
        (node("/etc/machine-id.bak", b"x"), "/etc/machine-id.bak"),
    ],
)
def test_a_stray_file_ends_the_build(kept: Path, python: Path, tmp_path: Path, stray: Node, said: str) -> None:
    """Added, changed, of a removed package, near a name that is allowed: each is named, and nothing else is."""
    mine = owners(kept, python, tmp_path)
    good = node("/usr/lib/libc.so", b"libc") if stray.path != "/usr/lib/libc.so" else node("/etc/machine-id", b"")
    assert mine.assign([good])
    with pytest.raises(BuildError) as caught:
        mine.assign([good, stray])
    assert said in str(caught.value)
    assert "1 files" in str(caught.value)


def test_what_is_ours_comes_before_the_package_it_replaces(kept: Path, python: Path, tmp_path: Path) -> None:
    """And is the package's again when it is as packaged: the package has no checksum of it here."""
    mine = owners(kept, python, tmp_path)
    assert mine.owner_of(node("/usr/bin/tool", b"ours")) == "own"
    assert mine.owner_of(node("/usr/bin/tool", b"theirs")) == "deb:tool"


def test_dpkg(kept: Path) -> None:
    """Installed packages only; paths as they lie on a system of today; licences where they have a form."""
    dpkg = Dpkg.read(kept)
    assert dpkg.packages == {
        "libc6": Package("libc6", "2.41-12+deb13u1", "amd64", "glibc", "LGPL-2.1+ and (GPL-2 or MIT)"),
        "tool": Package("tool", "7", "all", "tool", ""),
    }
    assert dpkg.owners["/usr/lib/libc.so"] == "libc6"
    assert dpkg.md5["/etc/gai.conf"] == "1" * 32
    assert set(Dpkg.read_status(kept / "status").packages) == {"libc6", "tool"}
    with pytest.raises(BuildError, match="nothing was kept"):
        Dpkg.read(kept / "copyright")


def test_merged_paths() -> None:
    """Only whole folders at the beginning."""
    paths = ["/bin/ls", "/lib/x", "/lib64/ld.so", "/sbin/init", "/library/x", "/usr/bin/ls", "/etc/lib/x", "/lib"]
    assert [merged(path) for path in paths] == [
        "/usr/bin/ls",
        "/usr/lib/x",
        "/usr/lib64/ld.so",
        "/usr/sbin/init",
        "/library/x",
        "/usr/bin/ls",
        "/etc/lib/x",
        "/lib",
    ]


def test_licences_of_other_forms_are_not_guessed() -> None:
    """Free text says nothing certain."""
    assert licence_of("This package is GPL.") == ""
    assert licence_of("Format: x\n\nFiles: *\nCopyright: y\n") == "unknown"


def test_no_file_is_removed_by_hardening_and_still_there() -> None:
    """In the root and in the initrd, at any depth that a pattern names, and not deeper or beside."""
    kernel = "/usr/lib/modules/6.12/kernel"
    harmless = ["/usr/bin/cat", "/usr/bin/shx", "/usr/lib/x/usr/bin/sh", "/var/lib", "/etc/passwd"]
    check_removed("cloud", [node(path, b"") for path in [*harmless, f"{kernel}/fs/ext4/ext4.ko.xz"]])
    for path in ("/usr/bin/sh", "/usr/bin/perl5.40", "/var/lib/dpkg", "/etc/passwd-"):
        with pytest.raises(BuildError, match="what hardening removes"):
            check_removed("cloud", [node("/usr/bin/cat", b""), node(path, b"")])
    check_removed(INITRD, [node("/usr/bin/cat", b"")])
    for path in ("/usr/bin/bash", "/usr/bin/tar", "/usr/lib/systemd/systemd-networkd"):
        with pytest.raises(BuildError, match="what hardening removes"):
            check_removed(INITRD, [node(path, b"")])


def test_only_listed_programs_are_there() -> None:
    """One that got there after the pruning ends the build, in whatever folder; and so does one that is missing."""
    for part in ("cloud", "metal", "test", INITRD):
        names = [name.replace("[0-9]*", "13") for name in kept_programs(part)]
        there = [node(f"/usr/bin/{name}", b"") for name in names]
        check_programs(part, [*there, node("/usr/lib/systemd/systemd", b""), Node("/usr/libexec/x", 0o040755)])
        for path in ("/usr/bin/sh", "/usr/sbin/sulogin", "/usr/libexec/x/helper"):
            with pytest.raises(BuildError, match=f"nobody listed .*{path}"):
                check_programs(part, [*there, node(path, b"")])
        with pytest.raises(BuildError, match=r"nobody listed .*/usr/bin/sh"):
            check_programs(part, [*there, Node("/usr/bin/sh", 0o120777, target="cat")])
        for number in range(len(names)):
            with pytest.raises(BuildError, match="not in the image"):
                check_programs(part, there[:number] + there[number + 1 :])


def test_every_library_is_there() -> None:
    """By its file, by a link, or by the name that it gives itself; a missing one is named with who needs it."""
    program = replace(node("/usr/bin/tool", b""), needs=("liba.so.1", "libb.so.2", "libc.so.3"))
    there = [
        program,
        node("/usr/lib/liba.so.1", b""),
        Node("/usr/lib/libb.so.2", 0o120777, target="libb.so.2.7"),
        replace(node("/usr/lib/libother.so", b""), soname="libc.so.3"),
    ]
    check_libraries("cloud", there)
    for number in (1, 2, 3):
        with pytest.raises(BuildError, match=r"lib[abc]\.so\.\d, for /usr/bin/tool"):
            check_libraries("cloud", [one for at, one in enumerate(there) if at != number])


def test_readelf_agrees() -> None:
    """On this machine's own programs and libraries; what is no program asks for nothing."""
    if shutil.which("readelf") is None:
        pytest.skip("apt-get install binutils")
    paths = [Path(sys.executable).resolve(), *sorted(Path("/usr/lib/x86_64-linux-gnu").glob("lib[a-e]*.so.*"))[:40]]
    for path in paths:
        text = subprocess.run(["readelf", "-d", "-W", path], capture_output=True, text=True, check=True).stdout
        needed, soname = libraries(path.read_bytes())
        assert list(needed) == re.findall(r"\(NEEDED\).*\[(.*)\]", text), path
        assert [soname] == (re.findall(r"\(SONAME\).*\[(.*)\]", text) or [""]), path
    data = paths[0].read_bytes()
    for other in (b"", b"#!/bin/sh", data[:40], data[:200], b"\x7fELF\x01\x01" + data[6:]):
        assert libraries(other) == ((), "")


def test_a_pattern_of_hardening_means_the_same_here(tmp_path: Path) -> None:
    """What ``prune`` deletes from a folder is what is found in a list of its files."""
    names = ["usr/bin/sh", "usr/bin/apt-get", "usr/lib/apt/methods", "usr/bin/cat", "var/lib/x", "usr/share/doc"]
    for name in names:
        put(tmp_path / name, b"")
    gone = set(hardening.prune(tmp_path, INITRD))
    for name in names:
        try:
            check_removed(INITRD, [node(f"/{name}", b"")])
        except BuildError:
            assert name in gone or any(name.startswith(f"{other}/") for other in gone), name
        else:
            assert name not in gone, name


# -- reading -----------------------------------------------------------------------------------------------------------


def cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """An archive in the form of the kernel's initrds."""
    out = io.BytesIO()
    for number, (name, (mode, data)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))]):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + name.encode() + b"\0")
        out.write(b"\0" * (-out.tell() % 4) + data)
        out.write(b"\0" * (-out.tell() % 4))
    return out.getvalue()


def test_an_initrd_is_read_as_the_kernel_reads_it() -> None:
    """Plain and packed archives in a row, padded or not; the later file of a name holds; magic bytes are data."""
    magic = b"\x28\xb5\x2f\xfd070701" + bytes(5)
    first = cpio({".": (0o040755, b""), "etc": (0o040755, b""), "etc/a": (0o100600, magic), "l": (0o120777, b"etc/a")})
    second = cpio({"etc/a": (0o100644, b"later"), "./etc/b": (0o100644, b"b")})
    third = cpio({"etc/c": (0o100755, b"")})
    pack = zstandard.ZstdCompressor().compress
    expected = {"/etc": 0o040755, "/etc/a": 0o100644, "/etc/b": 0o100644, "/etc/c": 0o100755, "/l": 0o120777}
    for data in (
        first + bytes(8) + pack(second) + bytes(4) + third,
        pack(first + bytes(512) + second) + pack(third),
        pack(first) + second + bytes(3) + pack(third) + bytes(100),
    ):
        found = {one.path: one for one in read_initrd(data)}
        assert {path: one.mode for path, one in found.items()} == expected
        assert found["/etc/a"] == node("/etc/a", b"later")
        assert found["/l"].target == "etc/a"


def test_a_damaged_initrd_is_refused() -> None:
    """Cut anywhere, or something else altogether."""
    whole = cpio({"etc/a": (0o100644, b"content")})
    packed = zstandard.ZstdCompressor().compress(whole)
    assert read_initrd(whole)
    assert read_initrd(packed)
    for data in (whole[:-20], whole[:60], b"PK" + whole, packed[:-5], packed[:8] + b"\xff" * 8 + packed[16:]):
        with pytest.raises(BuildError):
            read_initrd(data)


def test_cpio_agrees(tmp_path: Path) -> None:
    """An archive made by another program is read the same as the folder it was made from."""
    tree = tmp_path / "tree"
    put(tree / "usr/bin/tool", b"tool" * 1000, 0o755)
    put(tree / "etc/empty", b"")
    (tree / "lib").symlink_to("usr/lib")
    names = sorted(str(path.relative_to(tree)) for path in tree.rglob("*"))
    program = shutil.which("cpio")
    if not program:
        pytest.skip("apt-get install cpio")
    archive = [program, "--quiet", "-o", "-H", "newc"]
    made = subprocess.run(archive, cwd=tree, input="\n".join(names).encode(), capture_output=True, check=True).stdout
    assert read_initrd(made) == read_tree(tree)


def test_a_signed_program_is_that_of_its_package() -> None:
    """With our signature added it is the same program; with one byte changed it is another."""
    program = efi_program([(".text", b"code" * 400)])
    signed = with_signature(program, struct.pack("<LHH", 16, 0x200, 2) + b"12345678")
    assert inventory._signed("/uki/linux", signed, program).sha256 == hashlib.sha256(signed).hexdigest()
    other = bytearray(signed)
    other[len(program) - 10] ^= 1
    with pytest.raises(BuildError, match="not the program of its package"):
        inventory._signed("/uki/linux", bytes(other), program)


# -- what is written ---------------------------------------------------------------------------------------------------


def taken(kept: Path, python: Path, tmp_path: Path, **versions: str) -> Inventory:
    """An inventory of a small image. :param versions: of packages in the initrd, where they are others."""
    mine = owners(kept, python, tmp_path)
    nodes = [node("/usr/lib/libc.so", b"libc"), node("/usr/bin/tool", b"theirs"), node(f"/{SITE}/other.py", b"pass\n")]
    found = tuple((one, owner) for one in nodes if (owner := mine.owner_of(one)))
    root = Dpkg.read(kept)
    packages = {
        name: Package(name, versions.get(name, one.version), "all", name, "") for name, one in root.packages.items()
    }
    initrd = Dpkg(packages, root.owners, root.md5, {}) if versions else Dpkg()
    return Inventory(found, (root, initrd), tuple(distributions(python)), tmp_path)


def test_both_lists_are_what_a_release_takes(kept: Path, python: Path, tmp_path: Path) -> None:
    """The release's own parser reads them; a package without a file in the image is not in it."""
    lists = taken(kept, python, tmp_path).write(tmp_path)
    files, packages = read_root(*lists)
    assert [file.owner for file in files] == ["deb:tool", "py:Other-Thing", "deb:libc6"]
    assert [(one.name, one.version, one.source) for one in packages] == [
        ("libc6", "2.41-12+deb13u1", "glibc"),
        ("tool", "7", "tool"),
        ("Other-Thing", "1.0", ""),
    ]
    assert json.loads(lists[1].read_text())[0]["licence"] == "LGPL-2.1+ and (GPL-2 or MIT)"
    them = (RootLinked("golang", "example.com/a", "v1.0.0"),)
    more = replace(taken(kept, python, tmp_path), linked={"deb:tool": them, "py:Other-Thing": them})
    assert [one.linked for one in read_root(*more.write(tmp_path))[1]] == [(), them, them]


def test_two_versions_of_a_package_end_the_build(kept: Path, python: Path, tmp_path: Path) -> None:
    """The mirror moved between initrd and root."""
    assert taken(kept, python, tmp_path, tool="7").packages()
    with pytest.raises(BuildError, match="tool is in the root as 7 and in the initrd as 8"):
        taken(kept, python, tmp_path, tool="8").packages()


def test_notice_has_everybodys_terms(kept: Path, python: Path, tmp_path: Path) -> None:
    """Each package once, common licences that the texts refer to, our own; a package without terms ends the build."""
    common = tmp_path / "common"
    put(common / "GPL-2", b"the GNU GPL\n")
    (common / "GPL").symlink_to("GPL-2")
    put(tmp_path / "LICENSE", b"Apache\n")
    text = notice(taken(kept, python, tmp_path), common, tmp_path / "LICENSE", "1.2.3", "cloud")
    for words in ("tool 7", "free software", "libc6 2.41", "terms of Other-Thing", "the GNU GPL", "Apache", "1.2.3"):
        assert words in text, words
    assert f"terms of {PRODUCT}" not in text
    assert text.count("the GNU GPL") == 1
    (kept / "copyright/tool").unlink()
    with pytest.raises(BuildError, match="no copyright file was kept of tool"):
        notice(taken(kept, python, tmp_path), common, tmp_path / "LICENSE", "1.2.3", "cloud")
