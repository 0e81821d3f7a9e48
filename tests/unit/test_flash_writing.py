# SPDX-License-Identifier: Apache-2.0
"""Writing: a disk boots whole or not at all, whatever happens while it is written."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from appliance.boundary.errors import BsfgError, IntegrityError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.bmap import BlockMap, BlockRange
from appliance.flash.embed import Embedding
from appliance.flash.gpt import HEAD_BYTES, MIB, SECTOR, PartitionTable
from appliance.flash.release import Release, check_file, open_release
from appliance.flash.stream import image_bytes
from appliance.flash.target import DiskTarget, open_file
from appliance.flash.writing import Written, check_image, write_image
from tests.fakes.disks import FakeTarget, PowerCut
from tests.flashing import HAS_MTOOLS, IMAGE_BYTES, SmallRelease, mtools, small_image, small_release

DISK_BYTES = IMAGE_BYTES + 4 * MIB
needs_mtools = pytest.mark.skipif(not HAS_MTOOLS, reason="apt-get install mtools")


@dataclass(frozen=True)
class Subject:
    """A release that is open, and its image. :param old: another image, which was on the disk before."""

    made: SmallRelease
    release: Release
    raw: bytes
    old: bytes


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """One for all tests; nobody changes it."""
    made = small_release(tmp_path_factory.mktemp("flash") / "r")
    old = bytearray(small_image(2).raw.ljust(DISK_BYTES, b"\xaa"))
    head, tail = small_image(2).table.render(DISK_BYTES)  # a table that fills the disk, as a box in use has it
    old[: len(head)], old[DISK_BYTES - len(tail) :] = head, tail
    return Subject(made, open_release(made.folder, [made.key]), made.image.raw, bytes(old))


def used_disk(subject: Subject, size: int = DISK_BYTES) -> FakeTarget:
    """A disk with the old image."""
    target = FakeTarget(size)
    target.cache[:] = subject.old[:size]
    target.flush()
    return target


def flash(subject: Subject, target: FakeTarget | DiskTarget, *, resume: bool = False) -> Written:
    """Write the image."""
    return write_image(image_bytes(subject.release), subject.release.blocks, target, resume=resume)


def boots(medium: bytes | bytearray) -> str:
    """What a firmware finds that reads a disk: ``first``, ``second`` (the copy at the end), or nothing."""
    for name, head in (("first", bytes(medium[:MIB])), ("second", _head_of_second(bytes(medium)))):
        try:
            PartitionTable.parse(head)
        except RefusedError:
            continue
        return name
    return ""


def _head_of_second(medium: bytes) -> bytes:
    """The second table, laid out as the first one would be, with its checksums untouched where they hold."""
    header, array = medium[-SECTOR:], medium[-33 * SECTOR : -SECTOR]
    if header[:8] != b"EFI PART":
        return bytes(MIB)
    array_at = int.from_bytes(header[72:80], "little")
    assert array_at * SECTOR == len(medium) - 33 * SECTOR
    fixed = bytearray(header)
    fixed[72:80] = (2).to_bytes(8, "little")  # where this test puts the array
    fixed[16:20] = bytes(4)
    fixed[16:20] = zlib.crc32(bytes(fixed[:92])).to_bytes(4, "little")
    return (bytes(SECTOR) + bytes(fixed) + array).ljust(MIB, b"\0")


def holds(subject: Subject, medium: bytes | bytearray) -> bool:
    """Whether all of the image is there."""
    return all(medium[p.start : p.end] == subject.raw[p.start : p.end] for p in subject.release.blocks.ranges)


def test_an_image_is_written(subject: Subject) -> None:
    """Its mapped ranges and nothing else, the first MiB last; the ends of what was there before are gone."""
    target = used_disk(subject)
    seen: list[tuple[str, int, int]] = []
    blocks = subject.release.blocks
    done = write_image(image_bytes(subject.release), blocks, target, progress=lambda *step: seen.append(step))
    assert holds(subject, target.medium)
    assert boots(target.medium) == "first"
    assert (done.written, done.kept, done.direct) == (blocks.mapped, 0, True)
    assert target.writes[-1] == (0, HEAD_BYTES)
    assert target.medium[-MIB:] == bytes(MIB)
    gaps = [(a.end, b.start) for a, b in itertools.pairwise(blocks.ranges) if b.start > a.end]
    assert gaps
    assert all(target.medium[start:end] == subject.old[start:end] for start, end in gaps)
    assert [stage for stage, _ in itertools.groupby(seen, lambda step: step[0])] == [
        "write",
        "read back",
        "finish",
    ] or seen[-1][0] == "finish"
    assert all(0 <= count <= total for _, count, total in seen)


def test_a_power_cut_at_every_write_leaves_no_half_disk(subject: Subject) -> None:
    """Cut before each write, with the cache lost, and with the cache written: the old disk, no disk, or the new one."""
    whole = used_disk(subject)
    flash(subject, whole)
    count, met = len(whole.writes), set()
    assert count > 10
    for cut in range(count):
        target = used_disk(subject)

        def power(number: int, cut: int = cut) -> None:
            if number == cut:
                raise PowerCut

        target.before_write = power
        with pytest.raises(PowerCut):
            flash(subject, target)
        for medium in (target.medium, target.cache):
            found = boots(medium)
            met.add(found)
            if found:
                untouched = medium[MIB : DISK_BYTES - MIB] == subject.old[MIB : DISK_BYTES - MIB]
                assert untouched, f"write {cut}: {found} table, and a disk that is neither old nor new"
    assert met == {"", "first", "second"}  # the old ones before anything else was touched; after that none


def test_a_power_cut_on_a_disk_as_small_as_the_image(subject: Subject) -> None:
    """There the image's second table lies where firmware looks for it: it comes when all else is proven."""
    whole = used_disk(subject, IMAGE_BYTES)
    flash(subject, whole)
    for cut in range(1, len(whole.writes)):
        target = used_disk(subject, IMAGE_BYTES)

        def power(number: int, cut: int = cut) -> None:
            if number == cut:
                raise PowerCut

        target.before_write = power
        with pytest.raises(PowerCut):
            flash(subject, target)
        if boots(target.medium) and target.medium[MIB : 15 * MIB] != subject.old[MIB : 15 * MIB]:
            rest = [part for part in subject.release.blocks.ranges if part.start]
            assert all(target.medium[p.start : p.end] == subject.raw[p.start : p.end] for p in rest), cut


def test_resuming_writes_only_what_is_missing(subject: Subject) -> None:
    """After a cut, and after a bit of what was there has changed."""
    blocks = subject.release.blocks
    target = used_disk(subject)

    def power(number: int) -> None:
        if number == 6:
            raise PowerCut

    target.before_write = power
    with pytest.raises(PowerCut):
        flash(subject, target)
    target.before_write = lambda _: None
    target.flush()
    early = [
        part for part in blocks.ranges if target.medium[part.start : part.end] == subject.raw[part.start : part.end]
    ]
    assert early
    target.cache[early[0].start] ^= 1
    target.flush()
    done = flash(subject, target, resume=True)
    assert holds(subject, target.medium)
    assert boots(target.medium) == "first"
    assert done.written + done.kept == blocks.mapped
    assert done.kept == sum(part.end - part.start for part in early[1:])
    again = flash(subject, target, resume=True)
    late = sum(p.end - p.start for p in blocks.ranges if p.start == 0 or p.start >= 15 * MIB)
    assert (again.written, again.kept) == (late, blocks.mapped - late)
    assert flash(subject, target).kept == 0


@pytest.mark.parametrize("where", range(0, IMAGE_BYTES, MIB // 2))
def test_a_disk_that_lies_is_found(subject: Subject, where: int) -> None:
    """One bit that is not what was written, anywhere: and then the disk does not boot, unless it was the table."""
    mapped = next((p for p in subject.release.blocks.ranges if p.start <= where < p.end), None)
    target = used_disk(subject)

    def spoil(offset: int, data: bytes) -> bytes:
        if offset <= where < offset + len(data) and len(target.writes) > 2:  # the first two blank the ends
            at = where - offset
            return data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :]
        return data

    target.spoil = spoil
    if mapped is None:
        flash(subject, target)
        return
    with pytest.raises(IntegrityError) as failed:
        flash(subject, target)
    assert failed.value.reason is Reason.DISK_FAILED
    assert mapped.start == 0 or not boots(target.medium)


def test_a_disk_too_small(subject: Subject) -> None:
    """Refused before anything is touched."""
    target = used_disk(subject, IMAGE_BYTES - SECTOR)
    with pytest.raises(RefusedError) as refused:
        flash(subject, target)
    assert refused.value.reason is Reason.DISK_REFUSED
    assert target.writes == []


Stream = Callable[[bytes], bytes]
STREAMS: dict[str, Stream] = {
    "a byte changed in the root": lambda raw: raw[: 6 * MIB] + b"\xff\xfe" + raw[6 * MIB + 2 :],
    "a byte changed in the boot partition": lambda raw: raw[: MIB + 9] + b"\xff\xfe" + raw[MIB + 11 :],
    "a byte changed in the table at the end": lambda raw: raw[:-9] + b"\xff" + raw[-8:],
    "it ends early": lambda raw: raw[: 9 * MIB],
    "it is empty": lambda raw: b"",
    "another image": lambda raw: small_image(3).raw,
}


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_is_not_the_image(subject: Subject, name: str) -> None:
    """Whatever the block map does not fit is refused, and the disk does not boot."""
    raw = STREAMS[name](subject.raw)
    target = used_disk(subject)
    with pytest.raises(RefusedError) as refused:
        write_image(iter([raw[at : at + MIB] for at in range(0, len(raw), MIB)]), subject.release.blocks, target)
    assert refused.value.reason is Reason.BAD_IMAGE
    assert target.medium == subject.old or not boots(target.medium)


def _of(raw: bytes, *spans: tuple[int, int]) -> BlockMap:
    ranges = (BlockRange(a, b, hashlib.sha256(raw[a:b]).hexdigest()) for a, b in spans)
    return BlockMap(len(raw), 4096, tuple(ranges))


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 2 * MIB)],
        [(0, MIB), (14 * MIB, IMAGE_BYTES)],
        [(MIB, 2 * MIB)],
        [(0, MIB // 2), (MIB // 2, MIB)],
        [],
    ],
)
def test_maps_that_do_not_let_the_table_come_last(subject: Subject, spans: list[tuple[int, int]]) -> None:
    """A range over the border, no table, a table in pieces."""
    target = used_disk(subject)
    pieces: Iterator[bytes] = iter([subject.raw])
    with pytest.raises(RefusedError) as refused:
        write_image(pieces, _of(subject.raw, *spans), target)
    assert refused.value.reason is Reason.BAD_IMAGE
    assert target.writes == []


def test_an_image_exchanged_after_it_was_checked(subject: Subject, tmp_path: Path) -> None:
    """Its checksum is computed once more while it is written; the table never comes."""
    other = small_release(tmp_path / "other", small_image(5))
    for exchanged in (other.packed.read_bytes(), subject.release.image.read_bytes() + b"\0"):
        path = tmp_path / subject.release.image.name
        path.write_bytes(subject.release.image.read_bytes())
        check_file(path, subject.release.sums[path.name])
        path.write_bytes(exchanged)
        release = replace(subject.release, image=path)
        target = used_disk(subject)
        with pytest.raises(RefusedError) as refused:
            write_image(image_bytes(release), release.blocks, target)
        assert refused.value.reason is Reason.BAD_IMAGE
        assert not boots(target.medium)


def test_an_image_larger_than_its_manifest(subject: Subject) -> None:
    """A bomb is not decompressed to its end."""
    small = replace(subject.release, manifest=replace(subject.release.manifest, extract_size=3 * MIB))
    taken = 0

    def take() -> None:
        nonlocal taken
        for piece in image_bytes(small):
            taken += len(piece)

    with pytest.raises(RefusedError, match="larger"):
        take()
    assert taken <= 3 * MIB


def test_checking_alone(subject: Subject) -> None:
    """All that can be checked without a disk."""
    layout = check_image(image_bytes(subject.release), subject.release.blocks)
    assert layout.table == subject.made.image.table
    with pytest.raises(RefusedError):
        check_image(iter([small_image(3).raw]), subject.release.blocks)


def test_a_file_as_disk(subject: Subject, tmp_path: Path) -> None:
    """A real file with the real I/O; it must be new, unless a flash is resumed."""
    path = tmp_path / "disk.raw"
    target = open_file(path, DISK_BYTES, again=False)
    flash(subject, target)
    target.close()
    target.close()
    assert holds(subject, path.read_bytes())
    for again, size in ((False, DISK_BYTES), (True, DISK_BYTES - 1)):
        with pytest.raises(RefusedError) as refused:
            open_file(path, size, again=again)
        assert refused.value.reason is Reason.DISK_REFUSED
    link = tmp_path / "link"
    link.symlink_to(path)
    with pytest.raises(RefusedError):
        open_file(link, DISK_BYTES, again=True)
    target = open_file(path, DISK_BYTES, again=True)
    assert flash(subject, target, resume=True).kept > 0
    target.close()


@needs_mtools
def test_files_are_put_into_the_boot_partition(subject: Subject, tmp_path: Path) -> None:
    """Beside what is there; read back by mtools; and only before the table is written."""
    path = tmp_path / "disk@@raw"
    target = open_file(path, DISK_BYTES, again=False)
    files = {"site.toml": b"a = 1\n" * 1000, "voucher.json": b"{}\n"}
    embedding = Embedding.of(files)
    tables: list[str] = []

    def embed(to: object, esp: object) -> None:
        tables.append(boots(path.read_bytes()))
        embedding(target, subject.made.image.table.esp())

    write_image(image_bytes(subject.release), subject.release.blocks, target, embed=embed)
    target.close()
    assert tables == [""]
    esp = tmp_path / "esp"
    esp.write_bytes(path.read_bytes()[MIB : 5 * MIB])
    for name, data in files.items():
        assert mtools("mcopy", str(esp), f"::/bsfg/{name}", "-") == data
    assert len(mtools("mcopy", str(esp), "::/EFI/boot.efi", "-")) == 100_000


@needs_mtools
def test_a_boot_partition_that_cannot_be_written(subject: Subject, tmp_path: Path) -> None:
    """What does not fit, or is no file system, is an error; and the disk does not boot."""
    image = small_image(8)
    broken = replace(image, raw=image.raw[:MIB] + b"\x5a" * (4 * MIB) + image.raw[5 * MIB :])
    made = small_release(tmp_path / "broken", broken)
    release = open_release(made.folder, [made.key])
    target = open_file(tmp_path / "disk", DISK_BYTES, again=False)
    with pytest.raises(BsfgError) as failed:
        write_image(image_bytes(release), release.blocks, target, embed=Embedding.of({"site.toml": b"x"}))
    target.close()
    assert failed.value.reason is Reason.DISK_FAILED
    assert not boots((tmp_path / "disk").read_bytes())


def test_without_mtools_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install; without anything to embed it is not needed."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RefusedError, match="apt-get install mtools"):
        Embedding.of({"site.toml": b""})
    assert Embedding.of({}).files == {}
    with pytest.raises(RefusedError, match="bytes"):
        Embedding.of({"site.toml": bytes((1 << 20) + 1)})
