# SPDX-License-Identifier: Apache-2.0
"""Attacks on a release: every file of it changed, exchanged, or signed by somebody else. None is accepted."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import zstandard
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from appliance.boundary.errors import BsfgError
from appliance.boundary.reasons import Reason
from appliance.flash.bmap import BlockMap
from appliance.flash.gpt import MIB, PartitionTable
from appliance.flash.release import check_file, open_release, render_sums
from appliance.flash.stream import image_bytes
from appliance.flash.writing import check_image
from appliance.keys.operators import ORDER, sign
from tests.flashing import SmallRelease, small_image, small_release

Files = dict[str, bytes]


@dataclass(frozen=True)
class Mutant:
    """What an attacker serves."""

    name: str
    files: Files


def accept(folder: Path, key: ec.EllipticCurvePublicKey) -> None:
    """All that happens before a disk is touched, and the streaming checks. Raises if anything is wrong."""
    release = open_release(folder, [key])
    for name, digest in release.sums.items():
        check_file(folder / name, digest)
    check_image(image_bytes(release), release.blocks)


def refused(folder: Path, files: Files, key: ec.EllipticCurvePublicKey) -> Reason | None:
    """Why a folder with these files is refused; None: it is accepted."""
    for path in folder.iterdir():
        path.unlink()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        accept(folder, key)
    except BsfgError as error:
        return error.reason
    return None


def flipped(data: bytes, at: int, mask: int) -> bytes:
    """One byte changed."""
    return data[:at] + bytes([data[at] ^ mask]) + data[at + 1 :]


def places(data: bytes, count: int, dice: random.Random) -> list[int]:
    """Where to change it: both ends, and somewhere between."""
    wanted = min(count, len(data))
    return sorted({0, len(data) - 1, *dice.sample(range(len(data)), max(wanted - 2, 0))})


def bytewise(files: Files, dice: random.Random) -> Iterator[Mutant]:
    """Flips, truncations, additions; each file missing, empty, and doubled."""
    for name, data in files.items():
        count = 6 if name.endswith((".spdx.json", ".cdx.json")) else 72
        for at in places(data, count, dice):
            mask = 1 << dice.randrange(8)
            yield Mutant(f"{name}: bit at {at}", {**files, name: flipped(data, at, mask)})
        for label, changed in {
            "cut in half": data[: len(data) // 2],
            "last byte gone": data[:-1],
            "first byte gone": data[1:],
            "a byte more": data + b"\n",
            "a byte before": b"\n" + data,
            "empty": b"",
            "twice": data + data,
        }.items():
            yield Mutant(f"{name}: {label}", {**files, name: changed})
        yield Mutant(f"{name}: missing", {other: kept for other, kept in files.items() if other != name})


def signatures(files: Files) -> Iterator[Mutant]:
    """Signatures that are almost right."""
    text, signature = files["SHA256SUMS"], files["SHA256SUMS.sig"]
    r, s = decode_dss_signature(signature)
    stranger = ec.generate_private_key(ec.SECP256R1())
    curve = ec.generate_private_key(ec.SECP384R1())
    for label, changed in {
        "the other s": encode_dss_signature(r, ORDER - s),
        "r and s exchanged": encode_dss_signature(s, r),
        "zero": encode_dss_signature(0, 0),
        "ones": encode_dss_signature(1, 1),
        "a stranger's": sign(stranger, text),
        "another curve's": curve.sign(text, ec.ECDSA(hashes.SHA256())),
        "a longer length": b"\x30\x81" + signature[1:],
    }.items():
        yield Mutant(f"signature: {label}", {**files, "SHA256SUMS.sig": changed})


def lists(files: Files) -> Iterator[Mutant]:
    """Lists of checksums that say something else."""
    lines = files["SHA256SUMS"].decode().splitlines(keepends=True)
    for label, changed in {
        "one line less": "".join(lines[1:]),
        "sorted otherwise": "".join(lines[::-1]),
        "a line twice": "".join([*lines, lines[0]]),
        "carriage returns": "".join(lines).replace("\n", "\r\n"),
        "capital digits": "".join(lines).upper(),
        "one blank": "".join(lines).replace("  ", " "),
        "binary marks": "".join(lines).replace("  ", " *"),
        "a path": "".join(lines).replace("  ", "  ../"),
    }.items():
        yield Mutant(f"list: {label}", {**files, "SHA256SUMS": changed.encode()})


def exchanged(files: Files, other: Files) -> Iterator[Mutant]:
    """Parts of another genuine release, in every mixture but the whole."""
    names = sorted(files)
    for count in range(1, 2 ** len(names) - 1):
        chosen = [name for bit, name in enumerate(names) if count >> bit & 1]
        mixed = {**files, **{name: other[name] for name in chosen}}
        if mixed not in (files, other):
            yield Mutant(f"exchanged: {', '.join(chosen)}", mixed)


Resign = Callable[[Files], Files]


def contradictions(files: Files, other: Files, resign: Resign) -> Iterator[Mutant]:
    """Rightly signed, and in itself wrong: a builder's mistake, or a key that signs whatever it is given."""
    image = next(name for name in files if name.endswith(".raw.zst"))
    blocks = image.replace(".raw.zst", ".bmap")
    manifest = json.loads(files["manifest.json"])
    (entry,) = manifest["os_list"]

    def stated(**change: object) -> Files:
        return resign({**files, "manifest.json": json.dumps({"os_list": [{**entry, **change}]}).encode()})

    yield Mutant("signed: another map", resign({**files, blocks: other[blocks]}))
    yield Mutant("signed: another image", resign({**files, image: other[image]}))
    yield Mutant("signed: another manifest", resign({**files, "manifest.json": other["manifest.json"]}))
    for field, value in (
        ("extract_sha256", "0" * 64),
        ("extract_size", entry["extract_size"] + 4096),
        ("extract_size", -1),
        ("extract_size", True),
        ("image_download_size", entry["image_download_size"] - 1),
        ("image_download_sha256", "0" * 64),
        ("url", "../" + image),
        ("url", "https://example.com/" + image),
        ("name", 7),
        ("bsfg", {**entry["bsfg"], "version": "0.2.0"}),
        ("bsfg", {**entry["bsfg"], "profile": "metal"}),
        ("bsfg", None),
    ):
        yield Mutant(f"signed: {field} {value!r}", stated(**{field: value}))
    yield Mutant("signed: no entry", resign({**files, "manifest.json": b'{"os_list": []}'}))
    two = json.dumps({"os_list": [entry, entry]}).encode()
    yield Mutant("signed: two entries", resign({**files, "manifest.json": two}))
    yield Mutant("signed: no JSON", resign({**files, "manifest.json": b"\xff"}))
    yield Mutant("signed: no image", resign({name: data for name, data in files.items() if name != image}))
    second = image.replace("-cloud", "-metal")
    yield Mutant("signed: two images", resign({**files, second: files[image]}))
    yield from maps(files, blocks, resign)
    yield from images(files, image, resign)


def maps(files: Files, blocks: str, resign: Resign) -> Iterator[Mutant]:
    """Block maps that are rightly signed and no good."""

    def text(old: str, new: str) -> Files:
        changed = files[blocks].decode().replace(old, new, 1)
        own = changed.partition("<BmapFileChecksum> ")[2][:64]
        blank = changed.replace(own, "0" * 64)
        right = blank.replace("0" * 64, hashlib.sha256(blank.encode()).hexdigest(), 1)
        assert right.encode() != files[blocks]
        return resign({**files, blocks: right.encode()})

    first = BlockMap.parse(files[blocks]).ranges[0].sha256
    for label, old, new in (
        ("version 1.4", 'version="2.0"', 'version="1.4"'),
        ("SHA-1", "> sha256 <", "> sha1 <"),
        ("block size 4095", "<BlockSize> 4096", "<BlockSize> 4095"),
        ("an image size", "<ImageSize> 16777216", "<ImageSize> 16777217"),
        ("a count", "<MappedBlocksCount> ", "<MappedBlocksCount> 1"),
        ("overlap", "> 256-767 <", "> 255-767 <"),
        ("backwards", "> 256-767 <", "> 767-256 <"),
        ("beyond the end", "> 3840-4095 <", "> 3840-4096 <"),
        ("no checksum", f'<Range chksum="{first}">', "<Range>"),
        ("a checksum", first, "0" * 63 + "1"),
        ("an unknown field", "<BlockMap>", "<Other> 1 </Other><BlockMap>"),
        ("a field twice", "<BlockSize> 4096 </BlockSize>", "<BlockSize> 4096 </BlockSize>" * 2),
        ("an entity", "<bmap", '<!DOCTYPE a [<!ENTITY b "c">]><bmap'),
        ("not closed", "</bmap>", ""),
        ("another word", "<Range", "<Rang"),
        ("no table", "", ""),
    ):
        if old:
            yield Mutant(f"signed map: {label}", text(old, new))
    lines = files[blocks].decode().splitlines(keepends=True)
    yield Mutant("signed map: no own checksum", resign({**files, blocks: "".join(lines[:8] + lines[9:]).encode()}))


def images(files: Files, image: str, resign: Resign) -> Iterator[Mutant]:
    """Images that are rightly signed and not what map and manifest say."""
    raw = zstandard.ZstdDecompressor().decompress(files[image], max_output_size=1 << 26)
    pack = zstandard.ZstdCompressor().compress

    def stated(packed: bytes) -> Files:
        manifest = json.loads(files["manifest.json"])
        digest, size = hashlib.sha256(packed).hexdigest(), len(packed)
        manifest["os_list"][0] |= {"image_download_sha256": digest, "image_download_size": size}
        return resign({**files, image: packed, "manifest.json": json.dumps(manifest).encode()})

    for label, packed in {
        "a bit in the root": pack(flipped(raw, 6 * MIB, 1)),
        "a bit in what is not mapped": pack(flipped(raw, 12 * MIB + MIB // 2, 1)),
        "a bit in the table": pack(flipped(raw, 520, 1)),
        "longer": pack(raw + bytes(4096)),
        "shorter": pack(raw[:-4096]),
        "two frames": pack(raw) + pack(b"x"),
        "garbage behind it": pack(raw) + b"garbage",
        "no zstandard": raw[: 1 << 16],
        "a frame that is cut": pack(raw)[:-5],
        "a bomb": pack(bytes(64 * MIB)),
        "nothing": pack(b""),
    }.items():
        yield Mutant(f"signed image: {label}", stated(packed))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallRelease, Files, Files, Resign]:
    """A release, its files, those of another release by the same key, and what signs anything with that key."""
    folder = tmp_path_factory.mktemp("mutants")
    made = small_release(folder / "a")
    other = small_release(folder / "b", small_image(7))
    files = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    foreign = {path.name: path.read_bytes() for path in other.folder.iterdir()}
    loaded = load_pem_private_key(made.private.read_bytes(), None)
    assert isinstance(loaded, ec.EllipticCurvePrivateKey)

    def resign(changed: Files) -> Files:
        rest = {name: data for name, data in changed.items() if not name.startswith("SHA256SUMS")}
        text = render_sums({name: hashlib.sha256(data).hexdigest() for name, data in rest.items()})
        return {**rest, "SHA256SUMS": text, "SHA256SUMS.sig": sign(loaded, text)}

    return made, files, resign(foreign), resign


def test_no_mutant_is_accepted(world: tuple[SmallRelease, Files, Files, Resign], tmp_path: Path) -> None:
    """At least 200 of them, no two alike; the original is accepted before and after, and so is the other release."""
    made, files, other, resign = world
    dice = random.Random(4)
    mutants = [
        *bytewise(files, dice),
        *signatures(files),
        *lists(files),
        *exchanged(files, other),
        *contradictions(files, other, resign),
    ]
    folder = tmp_path / "served"
    folder.mkdir()
    for genuine in (files, other, resign(files)):
        assert refused(folder, genuine, made.key) is None
    seen: set[str] = set()
    reasons: dict[Reason, int] = {}
    accepted = []
    for mutant in mutants:
        shape = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in mutant.files.items()})
        if shape in seen:
            continue
        seen.add(shape)
        reason = refused(folder, mutant.files, made.key)
        if reason is None:
            accepted.append(mutant.name)
        else:
            reasons[reason] = reasons.get(reason, 0) + 1
    assert accepted == []
    assert set(reasons) == {Reason.BAD_IMAGE, Reason.IMAGE_UNSIGNED}
    assert min(reasons.values()) >= 50
    assert sum(reasons.values()) >= 200
    assert refused(folder, files, made.key) is None


def test_no_key_no_release(world: tuple[SmallRelease, Files, Files, Resign]) -> None:
    """A stranger's key, and none; one of several is enough."""
    made = world[0]
    stranger = ec.generate_private_key(ec.SECP256R1()).public_key()
    for keys in ([], [stranger]):
        with pytest.raises(BsfgError) as denied:
            open_release(made.folder, keys)
        assert denied.value.reason is Reason.IMAGE_UNSIGNED
    assert open_release(made.folder, [stranger, made.key]).image == made.packed


def test_partition_tables_are_read_strictly() -> None:
    """Each byte of the table matters; a made table is read as it was made, by anybody (sfdisk agrees)."""
    image = small_image()
    head = image.raw[:MIB]
    assert PartitionTable.parse(head) == image.table
    dice, met = random.Random(9), 0
    for _ in range(300):
        at = dice.choice([dice.randrange(512, 604), dice.randrange(1024, 1024 + 128 * 128)])
        with pytest.raises(BsfgError) as refusal:
            PartitionTable.parse(flipped(head, at, 1 << dice.randrange(8)))
        met += refusal.value.reason is Reason.BAD_IMAGE
    assert met == 300
    for short in (b"", head[:600], head[:2000]):
        with pytest.raises(BsfgError):
            PartitionTable.parse(short)
