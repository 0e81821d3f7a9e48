# SPDX-License-Identifier: Apache-2.0
"""What a Go program says of the modules in it: read as Go's own tool does, and never cut short in silence."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest

from tests.gobuilds import MARK, MODULES, PLAIN, program, section, varint
from tools.image.contents import Node
from tools.image.dpkg import Dpkg, Linked, Package
from tools.image.errors import BuildError
from tools.image.gobuild import GoModule, read_go_build
from tools.image.inventory import linked
from tools.image.release.inputs import DEBIAN_SOURCE, GO, GO_LIBRARY, RootLinked


def test_modules_are_read() -> None:
    """With their versions; what replaces one stands for it."""
    found = read_go_build(program(), "tool")
    assert found is not None
    assert (found.go, found.path, found.main) == (
        *("1.27.2", "example.com/tool/cmd"),
        GoModule("example.com/tool", "v1.2.3"),
    )
    assert found.modules == (
        GoModule("example.com/a/v2", "v2.0.0-20260101000000-abcdef123456+incompatible"),
        GoModule("example.com/fork", "v0.5.1"),
    )


def test_our_own_broker_is_read(find_tool: object) -> None:
    """The published nats-server of the development environment: every module that its go.mod has."""
    path = Path(__file__).resolve().parents[2] / ".venv/bin/nats-server"
    if not path.exists():
        pytest.skip("no nats-server in .venv")
    found = read_go_build(path.read_bytes(), "nats-server")
    assert found is not None
    assert found.main is not None
    assert found.main.path == "github.com/nats-io/nats-server/v2"
    names = {module.path for module in found.modules}
    assert {"github.com/nats-io/jwt/v2", "github.com/nats-io/nkeys", "golang.org/x/crypto"} <= names


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01", program(b"")], ids=["", "text", "32", "C"])
def test_other_programs_say_nothing(data: bytes) -> None:
    """Which is no fault."""
    assert read_go_build(data, "other") is None


def test_a_program_without_modules() -> None:
    """As Debian builds them: it knows its compiler."""
    found = read_go_build(program(section(PLAIN)), "tool")
    assert found is not None
    assert (found.go, found.main, found.modules) == ("1.27.2", None, ())
    bare = read_go_build(program(section("")), "tool")
    assert bare is not None
    assert bare.main is None


GOOD = section()
TEXTS = len("go1.27.2") + 33
BAD = {
    "another start": GOOD.replace(b"Go", b"go", 1),
    "cut in the header": GOOD[:20],
    "cut in the version": GOOD[:36],
    "cut in the list": GOOD[:-1],
    "addresses": section(flags=0),
    "no version": section(version="1.27.2"),
    "a version of words": section(version="devel"),
    "an empty version": section(version=""),
    "a length without an end": GOOD[:32] + b"\xff" * 8,
    "a length beyond the section": GOOD[:32] + varint(1 << 20) + b"go1.27.2",
    "a list without marks": GOOD[:TEXTS] + varint(3) + b"abc",
    "a list without an end": section(MODULES.rstrip("\n")),
    "an unknown line": section(MODULES + "linked\tx\n"),
    "a module without a version": section("mod\texample.com/tool\n"),
    "a module with an odd version": section("mod\texample.com/tool\t1.2.3\n"),
    "a module with an odd path": section("mod\t../tool\tv1.2.3\n"),
    "a path without words": section("path\n"),
    "a replacement of nothing": section("=>\texample.com/fork\tv0.5.1\n"),
    "too many": section("dep\texample.com/a\tv1.0.0\n" * 5000),
    "not UTF-8": GOOD.replace(b"example.com/b", b"example.com/\xff"),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_what_cannot_be_read_ends_the_build(content: bytes) -> None:
    """A list that is cut short would look whole."""
    with pytest.raises(BuildError, match="tool: what it says of its build by Go cannot be read"):
        read_go_build(program(content), "tool")


def test_a_damaged_table_of_sections_ends_the_build_or_says_nothing() -> None:
    """Each byte of header and table, one after the other: never another list of modules."""
    good = program()
    whole = read_go_build(good, "tool")
    odd = 0
    for at in (*range(40, 64), *range(len(good) - 3 * 64, len(good))):
        for bit in (0x01, 0x80):
            changed = bytearray(good)
            changed[at] ^= bit
            try:
                found = read_go_build(bytes(changed), "tool")
            except BuildError:
                odd += 1
                continue
            assert found in (whole, None)
    assert odd > 40
    assert struct.calcsize("<IIQQQQIIQQ") == 64
    assert len(MARK) == 16


# -- whose it is -------------------------------------------------------------------------------------------------------

BROKER = Package("nats-server", "2.15.1-1", "amd64", "nats-server", "")
SAYS = (Linked("golang-1.27", "1.27.2-1"), Linked("golang-go.crypto", "1:0.57.0-2"))


def test_a_program_without_modules_has_its_package_say_it() -> None:
    """Which names the compiler that made it; else it is about another program, and the build ends."""
    node = Node.of_bytes("/usr/sbin/nats-server", 0o100755, program(section(PLAIN)))
    other = Node.of_bytes("/usr/share/doc/x", 0o100644, b"x")
    files = [(node, "deb:nats-server"), (other, "deb:nats-server")]

    def found(*says: Linked) -> dict[str, tuple[RootLinked, ...]]:
        return linked(files, [Dpkg({"nats-server": replace(BROKER, linked=says)}), Dpkg()])

    assert found(*SAYS) == {
        "deb:nats-server": (
            RootLinked(DEBIAN_SOURCE, "golang-1.27", "1.27.2-1"),
            RootLinked(DEBIAN_SOURCE, "golang-go.crypto", "1:0.57.0-2"),
        )
    }
    for says in ((), SAYS[1:], (Linked("golang-1.27", "1.27.1-1"), SAYS[1])):
        with pytest.raises(BuildError, match=r"nats-server: made by Go 1\.27\.2, and nobody says of which modules"):
            found(*says)
    with pytest.raises(BuildError, match="own says nothing"):
        linked([(node, "own")], [Dpkg()])


def test_a_program_with_modules_says_it_itself() -> None:
    """Also of the standard library; in whatever kind of package, and beside what that says."""
    node = Node.of_bytes("/usr/bin/tool", 0o100755, program())
    own = (
        RootLinked(GO, "example.com/a/v2", "v2.0.0-20260101000000-abcdef123456+incompatible"),
        RootLinked(GO, "example.com/fork", "v0.5.1"),
        RootLinked(GO, GO_LIBRARY, "1.27.2"),
    )
    assert linked([(node, "py:Tool")], []) == {"py:Tool": own}
    both = linked([(node, "deb:nats-server")], [Dpkg({"nats-server": replace(BROKER, linked=SAYS[1:])})])
    assert both == {"deb:nats-server": (RootLinked(DEBIAN_SOURCE, "golang-go.crypto", "1:0.57.0-2"), *own)}


def test_what_dpkg_says_is_read_whole(tmp_path: Path) -> None:
    """With epochs and over lines; an entry of another form ends the build."""
    text = "Package: p\nStatus: install ok installed\nVersion: 1\nArchitecture: amd64\nStatic-Built-Using: {}\n"
    status = tmp_path / "status"
    status.write_text(text.format("golang-1.27 (= 1.27.2-1),\n golang-go.crypto (= 1:0.57.0-2)"))
    assert Dpkg.read_status(status).packages["p"].linked == SAYS
    for odd in ("golang-1.27", "golang-1.27 (>= 1.27)", "golang-1.27 (= 1.27.2-1) golang-x (= 1)"):
        status.write_text(text.format(odd))
        with pytest.raises(BuildError, match="cannot be read"):
            Dpkg.read_status(status)
