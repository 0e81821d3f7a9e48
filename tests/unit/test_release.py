# SPDX-License-Identifier: Apache-2.0
"""Release files: the same bytes each time, complete bills of materials, and block maps that bmaptool agrees with."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.boundary.errors import RefusedError
from appliance.flash.bmap import BlockMap
from appliance.flash.gpt import ESP, MIB, Partition, PartitionTable
from appliance.flash.release import image_name, open_release, parse_sums
from appliance.flash.verity import VeritySuperblock, root_hash
from tests.flashing import (
    FILES,
    PACKAGES,
    VERSION,
    SmallRelease,
    described,
    hash_tree,
    inputs,
    small_image,
    small_release,
)
from tools.image.errors import BuildError
from tools.image.release import assemble
from tools.image.release.blocks import RANGE_BYTES, map_blocks
from tools.image.release.inputs import read_root
from tools.image.release.licences import to_spdx

STEM = f"bsfg-appliance_{VERSION}_x86-64-cloud"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallRelease:
    """One release for all tests."""
    return small_release(tmp_path_factory.mktemp("release") / "r")


def document(made: SmallRelease, suffix: str) -> Any:
    """A JSON file of the release."""
    return json.loads((made.folder / (STEM + suffix)).read_text("utf-8"))


def test_the_files_of_a_release(made: SmallRelease) -> None:
    """All under the checksums, which coreutils check, and the signature, which OpenSSL checks."""
    suffixes = (".raw.zst", ".bmap", ".spdx.json", ".cdx.json")
    names = {STEM + suffix for suffix in suffixes} | {"manifest.json", "measurements.json"}
    assert {path.name for path in made.folder.iterdir()} == names | {"SHA256SUMS", "SHA256SUMS.sig"}
    assert set(parse_sums((made.folder / "SHA256SUMS").read_bytes())) == names
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=made.folder, check=True, capture_output=True)
    command = ["openssl", "dgst", "-sha256", "-verify", str(made.public), "-signature", "SHA256SUMS.sig", "SHA256SUMS"]
    done = subprocess.run(command, cwd=made.folder, check=True, capture_output=True)
    assert b"Verified OK" in done.stdout
    opened = open_release(made.folder, [made.key])
    assert open_release(made.packed, [made.key]) == opened
    assert (opened.manifest.version, opened.manifest.profile) == (VERSION, "cloud")


def test_zstd_agrees(made: SmallRelease, tmp_path: Path) -> None:
    """The image comes back by zstandard's own program."""
    if shutil.which("zstd") is None:
        pytest.skip("apt-get install zstd")
    out = tmp_path / "raw"
    subprocess.run(["zstd", "-q", "-d", made.packed, "-o", out], check=True)
    assert out.read_bytes() == made.image.raw


def test_equal_inputs_give_equal_bytes(made: SmallRelease, tmp_path: Path) -> None:
    """However many threads compress, in whatever folder; only signatures differ."""
    again = inputs(tmp_path / "b", made.image)
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        assemble(replace(again, threads=threads), out)
        for path in made.folder.iterdir():
            if path.name != "SHA256SUMS.sig":
                assert (out / path.name).read_bytes() == path.read_bytes(), path.name
        again.files.write_text(json.dumps(described(FILES)[::-1]))  # for the second one
        again.packages.write_text(json.dumps(PACKAGES[::-1]))


def test_manifest_has_the_fields_of_raspberry_pi_imager(made: SmallRelease) -> None:
    """Those that its schema demands of an entry, with their types; the address is relative."""
    (entry,) = json.loads((made.folder / "manifest.json").read_text())["os_list"]
    demanded = {
        "name": str,
        "description": str,
        "icon": str,
        "url": str,
        "extract_size": int,
        "extract_sha256": str,
        "image_download_size": int,
        "release_date": str,
    }
    assert {field: type(entry[field]) for field in demanded} == demanded
    packed = made.packed.read_bytes()
    assert (entry["image_download_size"], entry["image_download_sha256"]) == (
        len(packed),
        hashlib.sha256(packed).hexdigest(),
    )
    raw = made.image.raw
    assert (entry["extract_size"], entry["extract_sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert (entry["url"], entry["release_date"], entry["init_format"]) == (made.packed.name, "2026-05-28", "none")
    assert entry["bsfg"]["release_key"] == "development"
    assert entry["bsfg"]["root_hash"] == made.image.root_hash


# -- bills of materials ------------------------------------------------------------------------------------------------


def test_spdx_owns_every_file(made: SmallRelease) -> None:
    """Each file is contained by exactly one package, with both checksums; every reference leads somewhere."""
    spdx = document(made, ".spdx.json")
    assert (spdx["spdxVersion"], spdx["dataLicense"], spdx["SPDXID"]) == ("SPDX-2.3", "CC0-1.0", "SPDXRef-DOCUMENT")
    ids = [part["SPDXID"] for part in [spdx, *spdx["packages"], *spdx["files"]]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"SPDXRef-[A-Za-z0-9.-]+", name) for name in ids)
    relations = spdx["relationships"]
    assert all({r["spdxElementId"], r["relatedSpdxElement"]} <= set(ids) for r in relations)
    owners: dict[str, list[str]] = {f["fileName"]: [] for f in spdx["files"]}
    names = {part["SPDXID"]: part.get("fileName", part.get("name")) for part in [*spdx["packages"], *spdx["files"]]}
    for r in relations:
        if r["relatedSpdxElement"].startswith("SPDXRef-File-"):
            owners[names[r["relatedSpdxElement"]]].append(names[r["spdxElementId"]])
    assert owners == {
        "./usr/bin/true": ["coreutils"],
        "./usr/lib/x86_64-linux-gnu/libc.so.6": ["libc6"],
        "./usr/lib/bsfg/venv/lib/python3.13/site-packages/trio/__init__.py": ["trio"],
        "./usr/lib/systemd/system/bsfg-agent.service": ["bsfg-appliance"],
        "./etc/machine-id": ["bsfg-appliance-generated"],
    }
    for file in spdx["files"]:
        sums = {one["algorithm"]: one["checksumValue"] for one in file["checksums"]}
        assert sums["SHA256"] == hashlib.sha256(file["fileName"][1:].encode()).hexdigest()
        assert len(sums["SHA1"]) == 40
    libc = next(one for one in spdx["packages"] if one["name"] == "libc6")
    code = hashlib.sha1(hashlib.sha1(b"/usr/lib/x86_64-linux-gnu/libc.so.6").hexdigest().encode())  # noqa: S324
    assert libc["packageVerificationCode"]["packageVerificationCodeValue"] == code.hexdigest()
    assert libc["licenseDeclared"] == "LGPL-2.1-or-later"
    purl = "pkg:deb/debian/libc6@2.41-12%2Bdeb13u1?arch=amd64&distro=debian-13"
    assert libc["externalRefs"][0]["referenceLocator"] == purl
    zones = next(one for one in spdx["packages"] if one["name"] == "tzdata")
    assert (zones["filesAnalyzed"], zones["licenseDeclared"]) == (False, "NOASSERTION")
    assert "odd words" in zones["licenseComments"]
    assert spdx["creationInfo"]["created"] == "2026-05-28T20:26:40Z"


def test_cyclonedx_owns_every_file(made: SmallRelease) -> None:
    """Each file stands in one component; references are unique; the serial number is not random."""
    bom = document(made, ".cdx.json")
    assert (bom["bomFormat"], bom["specVersion"], bom["version"]) == ("CycloneDX", "1.6", 1)
    assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])
    files = [(one["name"], file["name"]) for one in bom["components"] for file in one.get("components", [])]
    assert sorted(path for _, path in files) == sorted(item["path"] for item in FILES)
    refs = [bom["metadata"]["component"]["bom-ref"], *(one["bom-ref"] for one in bom["components"])]
    refs += [file["bom-ref"] for one in bom["components"] for file in one.get("components", [])]
    assert len(set(refs)) == len(refs)
    assert set(bom["dependencies"][0]["dependsOn"]) <= set(refs)
    licences = {one["name"]: one.get("licenses") for one in bom["components"]}
    assert licences["coreutils"] == [{"license": {"id": "GPL-3.0-or-later"}}]
    assert licences["trio"] == [{"expression": "MIT OR Apache-2.0"}]
    assert licences["tzdata"] == [{"license": {"name": "odd words"}}]
    assert licences["bsfg-appliance-generated"] is None


def test_what_is_linked_into_a_program_is_a_component(made: SmallRelease) -> None:
    """With its version and package URL, and with whom it is in; it has no file of its own."""
    urls = {
        "golang-go.crypto": "pkg:deb/debian/golang-go.crypto@1%3A0.57.0-2?arch=source&distro=debian-13",
        "github.com/nats-io/jwt/v2": "pkg:golang/github.com/nats-io/jwt/v2@v2.8.2",
    }
    spdx, bom = document(made, ".spdx.json"), document(made, ".cdx.json")
    packages = {one["name"]: one for one in spdx["packages"]}
    ids = {one["SPDXID"]: one["name"] for one in spdx["packages"]}
    links = [r for r in spdx["relationships"] if r["relationshipType"] == "STATIC_LINK"]
    assert {(ids[r["spdxElementId"]], ids[r["relatedSpdxElement"]]) for r in links} == {
        ("coreutils", name) for name in urls
    }
    components = {one["name"]: one for one in bom["components"]}
    depends = {one["ref"]: one["dependsOn"] for one in bom["dependencies"]}
    assert depends["deb-coreutils-amd64"] == [components[name]["bom-ref"] for name in urls]
    for name, url in urls.items():
        assert packages[name]["externalRefs"][0]["referenceLocator"] == components[name]["purl"] == url
        assert not packages[name]["filesAnalyzed"]
        assert packages[name]["versionInfo"] == components[name]["version"]


def test_other_content_has_another_name(made: SmallRelease, tmp_path: Path) -> None:
    """Serial number and namespace follow from what is listed."""
    given = inputs(tmp_path / "b", made.image)
    changed = described(FILES)
    changed[0]["sha256"] = "0" * 64
    given.files.write_text(json.dumps(changed))
    assemble(given, tmp_path / "out")
    assert given.key is not None
    other = SmallRelease(tmp_path / "out", made.image, given.key, given.key)
    for suffix, field in ((".cdx.json", "serialNumber"), (".spdx.json", "documentNamespace")):
        assert document(other, suffix)[field] != document(made, suffix)[field]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-2", "GPL-2.0-only"),
        ("LGPL-2.1+ and BSD-3-clause", "LGPL-2.1-or-later AND BSD-3-Clause"),
        ("(Expat or Apache-2.0) and zlib", "(MIT OR Apache-2.0) AND Zlib"),
        ("GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-2.0-or-later WITH Classpath-exception-2.0"),
        ("Apache Software License", "Apache-2.0"),
        ("GPL-2+ with OpenSSL exception", None),
        ("GPL-9", None),
        ("MIT OR", None),
        ("(MIT", None),
        ("", None),
        ("public domain, mostly", None),
    ],
)
def test_licences_are_not_guessed(text: str, expected: str | None) -> None:
    """An expression where it says the same, else none."""
    assert to_spdx(text) == expected


BROKEN: list[tuple[str, int, dict[str, Any]]] = [
    ("files", 0, {"owner": ""}),
    ("files", 0, {"owner": "somebody"}),
    ("files", 0, {"owner": "deb:nothing"}),
    ("files", 0, {"owner": "py:coreutils"}),
    ("files", 0, {"owner": "generated:"}),
    ("files", 0, {"sha256": "0"}),
    ("files", 0, {"sha1": None}),
    ("files", 0, {"size": "1"}),
    ("files", 0, {"path": "usr/bin/true"}),
    ("files", 0, {"path": "/etc/machine-id"}),
    ("packages", 0, {"version": ""}),
    ("packages", 0, {"name": 7}),
    ("packages", 1, {"name": "coreutils", "version": "1"}),
]


@pytest.mark.parametrize(("which", "index", "change"), BROKEN)
def test_what_nobody_owns_is_no_release(tmp_path: Path, which: str, index: int, change: dict[str, Any]) -> None:
    """The build ends, and says at which file."""
    given = inputs(tmp_path / "b", small_image())
    read_root(given.files, given.packages)
    path = getattr(given, which)
    listed = json.loads(path.read_text())
    listed[index].update(change)
    path.write_text(json.dumps(listed))
    with pytest.raises(BuildError):
        assemble(given, tmp_path / "out")


def test_builds_that_end(tmp_path: Path) -> None:
    """No image, a folder with something in it, a key that is none, a name that is none, a file twice."""
    given = inputs(tmp_path / "b", small_image())
    used = tmp_path / "used"
    used.mkdir()
    (used / "x").touch()
    with pytest.raises(BuildError, match="not empty"):
        assemble(given, used)
    rsa = tmp_path / "rsa"
    subprocess.run(["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True)
    for change in ({"folder": tmp_path}, {"key": given.files}, {"key": rsa}, {"extra": (used / "x", used / "x")}):
        with pytest.raises(BuildError):
            assemble(replace(given, **change), tmp_path / f"out-{next(iter(change))}")
    for version, profile in (("0.1 0", ""), ("../1", ""), ("0.1.0", "Cloud"), ("", "")):
        with pytest.raises(RefusedError):
            image_name(version, profile)


# -- block maps --------------------------------------------------------------------------------------------------------


def test_the_map_covers_what_matters(made: SmallRelease) -> None:
    """All data that verity covers, zeros included; the first MiB alone; a first MiB of empty partitions; the end."""
    blocks = open_release(made.folder, [made.key]).blocks
    spans = [(part.start, part.end) for part in blocks.ranges]
    table, raw = made.image.table, made.image.raw
    assert spans[0] == (0, MIB)
    assert spans[-1] == (15 * MIB, 16 * MIB)
    root, hashes = table.partitions[1], table.partitions[2]
    covered = VeritySuperblock.parse(raw[hashes.start :]).data_bytes
    assert not any(raw[root.start + covered - 4096 : root.start + covered])  # it ends in zeros, which must be written
    for start, end in ((root.start, root.start + covered), (11 * MIB, 12 * MIB), (13 * MIB, 15 * MIB)):
        assert all(any(a <= at < b for a, b in spans) for at in range(start, end, 4096))
    assert all(end - start <= RANGE_BYTES for start, end in spans)
    mapped = bytearray(len(raw))
    for start, end in spans:
        mapped[start:end] = raw[start:end]
    assert bytes(mapped) == raw


def test_partitions_that_do_not_end_with_a_mebibyte(tmp_path: Path) -> None:
    """As systemd-repart makes them: the second table lies in one MiB with the last one, and in a range of its own."""
    size = 4 * MIB
    part = Partition(ESP, small_image().table.disk, 2048, 2048 + 4096 + 31, 0, "esp")
    table = PartitionTable(small_image().table.disk, size // 512, (part,))
    head, tail = table.render(size)
    raw = bytearray(size)
    raw[: len(head)], raw[size - len(tail) :], raw[part.start] = head, tail, 1
    (tmp_path / "raw").write_bytes(raw)
    used = [any(raw[at : at + MIB]) for at in range(0, size, MIB)]
    spans = [(one.start, one.end) for one in map_blocks(tmp_path / "raw", used).ranges]
    assert spans == [(0, MIB), (MIB, part.end), (part.end, size)]


def test_bmaptool_writes_by_our_map(made: SmallRelease, tmp_path: Path) -> None:
    """The peer takes it, checks all its checksums, and the ranges are written."""
    if shutil.which("bmaptool") is None:
        pytest.skip("apt-get install bmap-tools")
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.write_bytes(made.image.raw)
    ours = made.folder / f"{STEM}.bmap"
    subprocess.run(["bmaptool", "copy", "--bmap", ours, raw, out], check=True, capture_output=True)
    assert out.read_bytes() == made.image.raw
    raw.write_bytes(b"\1" + made.image.raw[1:])
    done = subprocess.run(["bmaptool", "copy", "--bmap", ours, raw, out], check=False, capture_output=True)
    assert b"checksum mismatch" in done.stderr


def test_we_read_bmaptools_map(made: SmallRelease, tmp_path: Path) -> None:
    """Of a file with holes; each range has its bytes."""
    if shutil.which("bmaptool") is None:
        pytest.skip("apt-get install bmap-tools")
    raw = tmp_path / "raw"
    with raw.open("wb") as file:
        file.truncate(16 * MIB)
        for at in (0, 5 * MIB + 4096, 9 * MIB):
            file.seek(at)
            file.write(made.image.raw[at : at + 12_000])
    out = tmp_path / "map"
    subprocess.run(["bmaptool", "create", "-o", out, raw], check=True, capture_output=True)
    blocks = BlockMap.parse(out.read_bytes())
    data = raw.read_bytes()
    assert blocks.ranges
    assert all(hashlib.sha256(data[p.start : p.end]).hexdigest() == p.sha256 for p in blocks.ranges)
    assert BlockMap.parse(blocks.render()) == blocks


# -- verity ------------------------------------------------------------------------------------------------------------

# Root hash and hash partition that veritysetup 2.6.1 makes of this data:
#   veritysetup format --salt 0011…ff0011…ff --uuid 11111111-2222-3333-4444-555555555555 data hashes
VERITY_SALT = bytes.fromhex("00112233445566778899aabbccddeeff") * 2
VERITY_DATA = b"".join(hashlib.sha256(b"%d" % i).digest() * 128 for i in range(300))
VERITY_ROOT = "ea33449210f1d2ba3cf2c005954a6ab19c7408e0c38fe5f53e88bd0edf921f03"
VERITY_FILE = "38d4382b861c5eb3b394b4b082322627960398f1766e6ea079747267285d8337"


def test_verity_agrees_with_veritysetup() -> None:
    """Root hash and every byte of the tree; and each byte that differs is noticed."""
    digest, tree = hash_tree(VERITY_DATA, VERITY_SALT)
    assert digest.hex() == VERITY_ROOT
    tree = tree[:16] + bytes.fromhex("11111111222233334444555555555555") + tree[32:]
    assert hashlib.sha256(tree).hexdigest() == VERITY_FILE

    def found(data: bytes, hashes: bytes) -> str:
        return root_hash(lambda at, n: data[at : at + n], lambda at, n: hashes[at : at + n]).hex()

    assert found(VERITY_DATA, tree) == VERITY_ROOT
    assert VeritySuperblock.parse(tree).tree_bytes() == len(tree)
    for at in (4096, 8192 + 5, len(tree) - 1):
        with pytest.raises(RefusedError):
            found(VERITY_DATA, tree[:at] + bytes([tree[at] ^ 1]) + tree[at + 1 :])
    with pytest.raises(RefusedError):
        found(VERITY_DATA[:-1] + bytes([VERITY_DATA[-1] ^ 1]), tree)
    for at in (0, 8, 12, 33, 64, 68):
        with pytest.raises(RefusedError):
            VeritySuperblock.parse(tree[:at] + bytes([tree[at] ^ 0x40]) + tree[at + 1 : 4096])
