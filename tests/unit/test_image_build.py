# SPDX-License-Identifier: Apache-2.0
"""How an image is built, as far as it can be told without building one: sources, pins, commands, keys, limits."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flashing import hash_tree
from tools.image import __main__ as command_line
from tools.image import build, gates, mirror, publish, pysite, signing
from tools.image.contents import Node
from tools.image.errors import BuildError
from tools.image.esp import _data
from tools.image.gates import Gate
from tools.image.keys import DEVELOPMENT, BuildKeys
from tools.image.mirror import BROKER_SUITE, SUITE, VARIABLE, Mirror, preferences
from tools.image.places import PROFILES, Places
from tools.image.progress import Progress, step
from tools.image.publish import Built
from tools.image.reproduce import Row, changed, copy_sources, table
from tools.image.sandbox import sandbox_tree, ukify_settings
from tools.image.toolstree import PACKAGES, ToolsTree

MIRROR = Mirror("http://packages.example/debian", "http://packages.example/debian-security")


# -- where packages come from ------------------------------------------------------------------------------------------


def test_the_variable_comes_before_apt(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the security archive lies beside the main one."""
    monkeypatch.setenv(VARIABLE, "http://packages.example/debian/")
    monkeypatch.setattr(mirror, "_from_apt", lambda: pytest.fail("apt was asked"))
    assert Mirror.find() == MIRROR


def answers(rows: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """An ``apt-get`` that answers so."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[:2] == ["apt-get", "indextargets"]
        return subprocess.CompletedProcess(command, 0, rows, "")

    return run


def test_apt_is_asked_for_this_machines_release(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several sources the first of the machine's own release; others and their security archives are passed by."""
    rows = (
        "http://other.example/vendor|stable\nhttp://packages.example/debian-security|bookworm-security\n"
        "http://packages.example/debian|bookworm\nhttp://late.example/debian|bookworm\n"
    )
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(mirror, "_codename", lambda: "bookworm")
    monkeypatch.setattr(subprocess, "run", answers(rows))
    assert Mirror.find() == MIRROR
    monkeypatch.setattr(mirror, "_codename", lambda: "trixie")
    with pytest.raises(BuildError, match="no source for trixie") as caught:
        Mirror.find()
    assert VARIABLE in caught.value.hint


def test_without_apt_the_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no guess and no default mirror."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        raise FileNotFoundError(command[0])

    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(BuildError) as caught:
        Mirror.find()
    assert VARIABLE in caught.value.hint


def test_sources() -> None:
    """Suites of the image with their components; the broker's suite with main alone, whatever the others have."""
    lines = MIRROR.lines().splitlines()
    assert lines == [
        f"deb http://packages.example/debian {SUITE} main",
        f"deb http://packages.example/debian {SUITE}-updates main",
        f"deb http://packages.example/debian-security {SUITE}-security main",
    ]
    stanzas = MIRROR.sources("main non-free-firmware").split("\n\n")
    fields = [dict(line.split(": ", 1) for line in stanza.strip().splitlines()) for stanza in stanzas]
    assert [(one["Suites"], one["Components"]) for one in fields] == [
        (f"{SUITE} {SUITE}-updates", "main non-free-firmware"),
        (f"{SUITE}-security", "main non-free-firmware"),
        (BROKER_SUITE, "main"),
    ]
    assert all(one["Signed-By"].startswith("/usr/share/keyrings/") for one in fields)


def test_nothing_but_the_broker_comes_from_its_suite() -> None:
    """Every package is pinned below zero there, so that it is never installed; one single name is above."""
    stanzas = [
        dict(line.split(": ", 1) for line in stanza.splitlines()) for stanza in preferences().strip().split("\n\n")
    ]
    assert {one["Pin"] for one in stanzas} == {f"release n={BROKER_SUITE}"}
    above = [one["Package"] for one in stanzas if int(one["Pin-Priority"]) >= 0]
    below = [one["Package"] for one in stanzas if int(one["Pin-Priority"]) < 0]
    assert (above, below) == (["nats-server"], ["*"])


def test_mkosi_sees_these_sources_and_writes_none(tmp_path: Path) -> None:
    """The very name of the file matters: with it there, mkosi adds no host of its own."""
    tree = sandbox_tree(tmp_path / "seen", MIRROR, "main")
    assert (tree / "etc/apt/sources.list.d/mkosi.sources").read_text() == MIRROR.sources("main")
    assert (tree / "etc/apt/preferences.d/broker").read_text() == preferences()


# -- commands ----------------------------------------------------------------------------------------------------------


def mkosi(places: Places, keys: BuildKeys, profile: str) -> list[str]:
    """The command that builds a profile."""
    return list(map(str, build._mkosi(places, keys, profile, ("1.2.3", 1700000000), [Path("a"), Path("b")], Path("c"))))


def test_the_command_that_builds(tmp_path: Path) -> None:
    """Everything that is not in ``image/`` is on it; it ends with the verb; no profile has the test agent but test."""
    places, keys = Places.of(tmp_path), BuildKeys.ready(tmp_path / "keys")
    for profile in PROFILES:
        command = mkosi(places, keys, profile)
        assert (command[0], command[-1]) == ("mkosi", "build")
        named = [command[at + 1] for at, word in enumerate(command) if word == "--profile"]
        assert ("test" in named) == (profile == "test")
        options = dict(word[2:].split("=", 1) for word in command if "=" in word)
        assert options["source-date-epoch"] == "1700000000"
        assert options["image-version"] == "1.2.3"
        assert options["package-cache-dir"] == str(places.cache)
        assert options["verity-key"] == options["secure-boot-key"] == str(keys.secure_boot.db_key)
        assert "incremental" not in options
    assert set(build.MKOSI_PROFILES) == set(build.COMPONENTS) == set(PROFILES)
    assert [name for name, parts in build.COMPONENTS.items() if "non-free-firmware" in parts] == ["metal"]


def test_the_command_line() -> None:
    """The test profile can be built and not released."""
    parse = command_line.parser().parse_args
    assert parse(["release"]).profile == "cloud"
    assert parse(["build", "--profile", "test", "--incremental"]).incremental
    for wrong in (["release", "--profile", "test"], ["build", "--profile", "none"], []):
        with pytest.raises(SystemExit):
            parse(wrong)


def test_the_test_image_is_never_published(tmp_path: Path) -> None:
    """Not by the function either."""
    with pytest.raises(BuildError, match="never released"):
        publish.publish(Places.of(tmp_path), "test", lambda _: None)


def test_an_error_is_said_with_its_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And is the exit code."""
    (tmp_path / "here").write_text("")
    assert command_line.main(["keys", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "is not empty" in said
    assert "hint: keys are never overwritten" in said


def test_tools_see_each_folder_once(tmp_path: Path) -> None:
    """The checkout; keys and shared downloads that lie elsewhere; and no folder within another."""
    here, keys = tmp_path / "checkout", tmp_path / "stick/keys"
    assert Places.of(here).seen == (here,)
    assert Places.of(here, keys).seen == (here, keys)
    assert Places.of(here, here / "keys").seen == (here,)
    apart = Places.of(here).apart("first")
    assert apart.seen == (here / "build/image",)
    assert (apart.tools, apart.keys, apart.cache) == (
        Places.of(here).tools,
        Places.of(here).keys,
        Places.of(here).cache,
    )
    assert apart.work("cloud").is_relative_to(apart.build)
    command = ToolsTree(Path("tools"), apart.seen).command(["true"], here)
    assert command[command.index("--bind") + 1] == str(here / "build/image")


def test_tools_are_a_sorted_list() -> None:
    """So that a name stands once."""
    assert list(PACKAGES) == sorted(set(PACKAGES))


# -- keys --------------------------------------------------------------------------------------------------------------


def test_keys_of_a_release_are_never_made_by_a_build(tmp_path: Path) -> None:
    """Whatever is missing is named, and nothing is made; keys of development say so for ever."""
    made = BuildKeys.create(tmp_path / "offline")
    assert not made.development
    assert BuildKeys.given(made.folder).secure_boot.db_certificate == made.secure_boot.db_certificate
    for name in ("release.key", "pcr-initrd.key", "pcr-system.key", "secure-boot"):
        moved = tmp_path / "moved"
        (made.folder / name).rename(moved)
        before = sorted(made.folder.rglob("*"))
        with pytest.raises(BuildError, match=name.replace(".", r"\.")):
            BuildKeys.given(made.folder)
        assert sorted(made.folder.rglob("*")) == before
        moved.rename(made.folder / name)
    with pytest.raises(BuildError, match="not empty"):
        BuildKeys.create(made.folder)
    own = BuildKeys.ready(tmp_path / "own")
    assert (own.made, own.development) == (True, True)
    assert (BuildKeys.ready(own.folder).made, BuildKeys.ready(own.folder).development) == (False, True)
    assert (own.folder / DEVELOPMENT).is_file()
    assert own.folder.stat().st_mode & 0o777 == 0o700


def test_pcr_11_is_signed_for_the_initrd_by_another_key(tmp_path: Path) -> None:
    """The key that opens the disk signs no phase of the running system."""
    text = ukify_settings(BuildKeys.ready(tmp_path / "keys"))
    initrd, system = text.split("[PCRSignature:")[1:]
    assert "pcr-initrd.key" in initrd
    assert "Phases=enter-initrd\n" in initrd
    assert "pcr-system.key" in system
    assert "Phases=enter-initrd:leave-initrd " in system
    assert text.splitlines()[:3] == ["[UKI]", "PCRBanks=sha256", f"PCRPKey={tmp_path / 'keys/pcr-initrd.pub'}"]


def test_signatures_name_the_time_of_what_is_built() -> None:
    """The clock stands still for the signing program."""
    assert signing.at_time(1700000000) == ("faketime", "-f", "2023-11-14 22:13:20")


# -- limits ------------------------------------------------------------------------------------------------------------


def built(out: Path, *, uki: int = 1000, blocks: int = 300) -> Path:
    """What a build leaves, as far as its size is looked at."""
    out.mkdir()
    (out / "appliance.verity.raw").write_bytes(hash_tree(bytes(4096 * blocks))[1])
    with (out / "appliance.efi").open("wb") as file:
        file.truncate(uki)
    return out


def test_gates(tmp_path: Path) -> None:
    """Sizes are those of the files and of what verity covers."""
    packed = tmp_path / "image.zst"
    packed.write_bytes(bytes(10))
    found = {gate.name: gate.value for gate in gates.gates("cloud", built(tmp_path / "out"), packed)}
    assert found == {
        "compressed image": 10,
        "kernel image": 1000,
        "root in its slot": 300 * 4096,
        "hash tree in its slot": (1 + 3 + 1) * 4096,
    }
    assert len(gates.check(gates.gates("cloud", tmp_path / "out", None))) == 3


def test_what_is_over_its_limit_ends_the_build(tmp_path: Path) -> None:
    """By one byte; all that is over is named, and what is not is not."""
    limits = {"compressed image": 150_000_000, "kernel image": 40 << 20}
    out = built(tmp_path / "out", uki=(40 << 20) + 1)
    packed = tmp_path / "image.zst"
    with packed.open("wb") as file:
        file.truncate(150_000_000)
    assert {gate.name: gate.limit for gate in gates.gates("cloud", out, packed) if gate.name in limits} == limits
    with pytest.raises(BuildError) as caught:
        gates.check(gates.gates("cloud", out, packed))
    assert "kernel image" in str(caught.value)
    assert "compressed image" not in str(caught.value)
    assert {name: size // gates.MB for name, size in gates.PACKED_BYTES.items()} == {
        "cloud": 150,
        "test": 150,
        "metal": 400,
    }
    slot = {gate.name: gate.limit for gate in gates.gates("metal", out, None)}
    assert slot["root in its slot"] == int(0.7 * 2**30)
    assert slot["hash tree in its slot"] == int(0.7 * 2**24)
    over = [Gate("a", 11, 10), Gate("b", 10, 10), Gate("c", 99, 10)]
    with pytest.raises(BuildError, match=r"a: .*\n  c: "):
        gates.check(over)


def test_slots_are_as_large_as_the_limits_say(root: Path) -> None:
    """``mkosi.repart`` and the gates speak of the same slot."""
    sizes = {}
    for name in ("10-root", "11-root-verity"):
        text = (root / f"image/mkosi.repart/{name}.conf").read_text()
        least, most = (
            next(line for line in text.splitlines() if line.startswith(key)) for key in ("SizeMin", "SizeMax")
        )
        assert least.partition("=")[2] == most.partition("=")[2]
        sizes[name] = least.partition("=")[2]
    assert sizes == {"10-root": "1G", "11-root-verity": "16M"}
    assert (gates.SLOT_BYTES, gates.VERITY_BYTES) == (1 << 30, 16 << 20)


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_python_packages_say_nothing_of_one_installation(tmp_path: Path) -> None:
    """What pip notes of where and how it installed is gone; the record names what is there, sorted."""
    metadata = tmp_path / "thing-1.dist-info"
    metadata.mkdir()
    for name in ("direct_url.json", "REQUESTED", "INSTALLER", "METADATA"):
        (metadata / name).write_text("x")
    (tmp_path / "thing.py").write_text("")
    rows = [
        "thing.py,sha256=a,0",
        "gone.pyi,sha256=b,1",
        "thing-1.dist-info/direct_url.json,,",
        "thing-1.dist-info/RECORD,,",
    ]
    (metadata / "RECORD").write_text("\n".join([*rows, "thing-1.dist-info/METADATA,,", ""]))
    pysite._tidy(metadata)
    assert sorted(path.name for path in metadata.iterdir()) == ["METADATA", "RECORD"]
    lines = ["thing-1.dist-info/METADATA,,", "thing-1.dist-info/RECORD,,", "thing.py,sha256=a,0"]
    assert (metadata / "RECORD").read_text().splitlines() == lines


def test_a_build_that_did_not_end_is_not_published(tmp_path: Path) -> None:
    """Its facts are written last."""
    with pytest.raises(BuildError, match="no finished image"):
        Built.read(tmp_path)
    (tmp_path / "image.json").write_text('{"version": "1", "profile": "cloud", "built_unix_s": 1, "roothash": "ab"}')
    assert Built.read(tmp_path) == Built("1", "cloud", 1, "ab")


def test_times_are_kept() -> None:
    """Each step that took long enough, and the sum."""
    lines: list[str] = []
    say = Progress(lines.append)
    with step(say, "quick: nothing"):
        pass
    say.took.append(("slow", 12.34))
    assert [line.split("  ")[-1] for line in lines] == ["quick: nothing ...", "quick: nothing: 0 s"]
    assert say.took[0][0] == "quick"
    assert say.table()[0] == "   12.3 s  slow"
    assert say.table()[-1].endswith("in all")


def test_holes_of_a_file_are_not_read(tmp_path: Path) -> None:
    """Its data is, with its places."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"data")
    with path.open("rb") as file:
        pieces = list(_data(file.fileno()))
    assert sum(len(data) for _, data in pieces) < 1 << 20
    assert [data[(32 << 20) - at :][:4] for at, data in pieces if at <= 32 << 20 < at + len(data)] == [b"data"]
    with path.open("rb+") as file:
        file.truncate(1 << 20)
        assert list(_data(file.fileno())) == []


# -- reproduction ------------------------------------------------------------------------------------------------------


def test_differences_between_builds_are_found() -> None:
    """Content, mode, target, and what only one has; the table names them."""
    first = [Node.of_bytes("/a", 0o100644, b"a"), Node("/l", 0o120777, target="a"), Node("/only", 0o040755)]
    assert changed(first, list(first)) == []
    second = [Node.of_bytes("/a", 0o100600, b"a"), Node("/l", 0o120777, target="b"), Node("/new", 0o040755)]
    assert changed(first, second) == ["/a", "/l", "/new", "/only"]
    rows = [Row("root", ("a" * 64, "a" * 64)), Row("tree", ("a" * 64, "b" * 64))]
    assert [line.split()[0] for line in table(rows)] == ["same", "DIFFERS"]
    assert "b" * 16 in table(rows)[1]


def test_sources_are_copied_whole_and_alone(root: Path, tmp_path: Path) -> None:
    """What the build reads is there; what others have lying about is not."""
    copy_sources(root, tmp_path / "copy")
    assert not list((tmp_path / "copy").rglob("__pycache__"))
    for name in ("appliance/__init__.py", "image/mkosi.conf", "image/mkosi.finalize", "requirements/runtime.txt"):
        assert (tmp_path / "copy" / name).read_bytes() == (root / name).read_bytes()
    assert os.access(tmp_path / "copy/image/mkosi.finalize", os.X_OK)
    assert {path.name for path in (tmp_path / "copy").iterdir()} & {".git", "build", ".venv", "tests"} == set()
