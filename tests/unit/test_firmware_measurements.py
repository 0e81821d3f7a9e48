# SPDX-License-Identifier: Apache-2.0
"""Predicted PCR values and digests of EFI programs, compared with what other programs say; what is published."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pefile  # type: ignore[import-untyped]
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from virt.firmware import measure  # type: ignore[import-untyped]
from virt.firmware.efi.efivar import EfiVar, EfiVarList  # type: ignore[import-untyped]
from virt.peutils import pesign  # type: ignore[import-untyped]

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.firmware import measurements
from appliance.firmware.changes import rotate
from appliance.firmware.efi import KeyVariable
from appliance.firmware.keys import SecureBootKeys
from appliance.firmware.pe import Section, authenticode, sections
from appliance.keys.attestation.measurements import Measurements
from appliance.keys.tpm.simulated_boot import pcr_signatures
from tests.efi import SECURITY, efi_program, with_signature
from tools.image.measurements import image_number, image_of, published

PARTS = {
    ".linux": b"MZ kernel" * 700,
    ".osrel": b"ID=bsfg\nIMAGE_VERSION=0.1.0\n",
    ".cmdline": b"roothash=00 quiet",
    ".initrd": bytes(range(256)) * 13,
    ".uname": b"6.12.1",
    ".sbat": b"sbat,1\n",
    ".pcrpkey": b"-----BEGIN PUBLIC KEY-----\n",
}
BY_SYSTEMD = {
    "": "7af5cfbf77b5eb631fd367f0bdbd5582d6d7fe2d577910f6abc54c6a787e349e",
    "enter-initrd": "f9e1a45a02baab7c802e3ee459862c7836f408bf810a2b96ede137767a1a084f",
    "enter-initrd:leave-initrd": "b6de0852dddc27c1a573ca11e5150a511f906fa2478f842986e480fe45a93ed6",
    "enter-initrd:leave-initrd:sysinit": "5e52e4c77ddb6474415588e914d446d4d91acfe31f7bf2aff36e8ba18965aa3f",
    "enter-initrd:leave-initrd:sysinit:ready": "b121da818757cef93cae8fd1fa48aa192bc572c2d5468abbec34caaa02beed30",
}
"""PCR 11 of PARTS as systemd-measure 257.13 calculated it."""


def kernel_image(**other: bytes) -> bytes:
    """A kernel image of our parts, not in the order in which they are measured."""
    parts = {**PARTS, ".pcrsig": b"{}", **{f".{name}": data for name, data in other.items()}}
    return efi_program([(".text", b"\xc3"), *reversed(parts.items())])


def signed_image(image_key: Path, **other: bytes) -> bytes:
    """A kernel image with the image key's signatures over its PCR 11, as ukify adds them."""
    key = serialization.load_pem_private_key(image_key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    values = measurements.running_values(sections(kernel_image(**other)))
    return kernel_image(**other, pcrsig=pcr_signatures(key, list(values)))


@pytest.fixture(scope="module")
def image_key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The key that signs for a builder."""
    key = rsa.generate_private_key(65537, 2048)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path_factory.mktemp("image") / "image.key"
    path.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    return path


# -- PCR 11 ------------------------------------------------------------------------------------------------------------


def test_pcr_11_is_what_systemd_calculated() -> None:
    """For each phase of the boot, from the sections of a kernel image."""
    values = measurements.pcr11(sections(kernel_image()))
    assert {phase: value.hex() for phase, value in values.items()} == BY_SYSTEMD


@pytest.fixture
def inside(root: Path) -> Iterator[Path]:
    """A folder inside the tree with systemd's tools that the image build makes, which has systemd-measure."""
    tree = root / "build/image/tools"
    if not (tree / "usr/lib/systemd/systemd-measure").exists():
        pytest.skip("not run: no tree of image tools; 'make image' makes it")
    if os.geteuid():
        pytest.skip("not run: entering the tree of image tools takes root")
    with tempfile.TemporaryDirectory(dir=tree / "var/tmp") as folder:
        yield Path(folder)


def test_pcr_11_is_what_systemd_calculates(inside: Path, root: Path) -> None:
    """With the version of systemd whose stub is in our kernel images; also where a section is missing."""
    tree = root / "build/image/tools"
    there = Path("/") / inside.relative_to(tree)
    for left_out in ("", ".sbat", ".pcrpkey"):
        parts = {name: data for name, data in PARTS.items() if name != left_out}
        for name, data in parts.items():
            (inside / name[1:]).write_bytes(data)
        command = ["chroot", str(tree), "/usr/lib/systemd/systemd-measure", "calculate", "--bank=sha256"]
        command += [f"--{name[1:]}={there / name[1:]}" for name in parts]
        command += ["--json=short", *(f"--phase={phase}" for phase in BY_SYSTEMD)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        theirs = {one.get("phase", ""): one["hash"] for one in json.loads(done.stdout)["sha256"]}
        ours = measurements.pcr11(Section(name, data) for name, data in parts.items())
        assert {phase: value.hex() for phase, value in ours.items()} == theirs


def test_a_section_counts_with_its_size_in_memory() -> None:
    """Filling in the file is not measured; what the loader fills with zeros is."""
    program = bytearray(kernel_image())
    assert {one.name: one.data for one in sections(bytes(program))}[".cmdline"] == PARTS[".cmdline"]
    at = program.index(b".cmdline") + 8
    program[at : at + 4] = (600).to_bytes(4, "little")
    assert {one.name: one.data for one in sections(bytes(program))}[".cmdline"] == PARTS[".cmdline"].ljust(600, b"\0")


@pytest.mark.parametrize("name", [".profile", ".dtbauto", ".hwids", ".efifw", ".initrd"])
def test_what_is_chosen_at_boot_has_no_one_value(name: str) -> None:
    """Several profiles, or a section twice, are refused instead of predicted wrongly."""
    parts = [*sections(kernel_image()), Section(name, b"x")]
    with pytest.raises(RefusedError, match="chosen at boot"):
        measurements.pcr11(parts)


def test_any_changed_section_changes_pcr_11() -> None:
    """One byte more in each section, and each word of a phase."""
    values = [tuple(measurements.pcr11(sections(kernel_image())).values())]
    for name, data in PARTS.items():
        values.append(tuple(measurements.pcr11(sections(kernel_image(**{name[1:]: data + b"x"}))).values()))
    assert len({value for row in values for value in row}) == len(values) * 5
    assert measurements.pcr11(sections(kernel_image(pcrsig=b"other"))) == measurements.pcr11(sections(kernel_image()))


# -- PCR 7 -------------------------------------------------------------------------------------------------------------


def test_pcr_7_is_what_virt_firmware_calculates(tmp_path: Path) -> None:
    """Without the boot loader's entry, which that program leaves to others; tests/vm asks the firmware itself."""
    keys = SecureBootKeys.create(tmp_path / "keys")
    variables = EfiVarList()
    for variable in KeyVariable:
        variables[str(variable)] = EfiVar(str(variable), data=keys.contents[variable])
    for on in (True, False):
        events = measure.measure_varlist(["sha256"], variables, secureboot=on)
        [theirs] = measure.calculate_pcrs(["sha256"], events)
        assert measurements.pcr7(keys.contents, [], secure_boot=on).hex() == theirs["digest"]


def test_pcr_7_tells_keys_apart(tmp_path: Path) -> None:
    """Each change of keys changes it, and so does the key that signed the image."""
    first = SecureBootKeys.create(tmp_path / "keys")
    old = first.db.certificate().public_bytes(serialization.Encoding.DER)
    values = {measurements.expected_pcr7(first.contents, old), measurements.pcr7(first.contents, [])}
    keys = first
    for role in (KeyVariable.DB, KeyVariable.KEK, KeyVariable.PK):
        keys = rotate(keys, role)
        own = keys.db.certificate().public_bytes(serialization.Encoding.DER)
        values |= {measurements.expected_pcr7(keys.contents, der) for der in (old, own)}
    assert len(values) == 8
    entry = measurements.authority(keys.contents[KeyVariable.DB], old)
    assert measurements.pcr7(keys.contents, [entry, entry]) == measurements.pcr7(keys.contents, [entry])
    with pytest.raises(RefusedError) as caught:
        measurements.expected_pcr7(first.contents, b"another certificate")
    assert caught.value.reason is Reason.FIRMWARE_KEYS


# -- EFI programs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 511, 512, 70_001])
def test_a_programs_digest_is_what_virt_firmware_finds(size: int) -> None:
    """With and without a signature, which the digest does not cover; and it is not the file's SHA-256."""
    program = efi_program([(".text", b"\xc3" * size), (".data", b"data")])
    signed = with_signature(program, b"a signature")
    for one in (program, signed):
        assert authenticode(one) == pesign.pe_authenticode_hash(pefile.PE(data=one))
    assert authenticode(program) == authenticode(signed) != hashlib.sha256(program).digest()
    changed = bytearray(program)
    changed[-520] ^= 1
    assert authenticode(bytes(changed)) != authenticode(program)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: b"PK" + data[2:],
        lambda data: data[:0x40] + b"XX" + data[0x42:],
        lambda data: data[:700],
        lambda data: data[:0x3C] + b"\xff\xff\xff\x7f" + data[0x40:],
        lambda data: data[:0x58] + b"\x0b\x01" + data[0x5A:],
        lambda data: data[:0x46] + b"\xff\xff" + data[0x48:],
        lambda data: data[:SECURITY] + (512).to_bytes(4, "little") + (64).to_bytes(4, "little") + data[SECURITY + 8 :],
    ],
)
def test_what_is_no_efi_program_is_refused(damage: Callable[[bytes], bytes]) -> None:
    """Cut off, of another kind, or with numbers that lead outside."""
    data = damage(efi_program([(".text", b"\xc3" * 2000)]))
    with pytest.raises(RefusedError) as caught:
        authenticode(data)
    assert caught.value.reason is Reason.BAD_IMAGE


# -- what is published -------------------------------------------------------------------------------------------------


def test_published_measurements_are_what_hubs_read(tmp_path: Path, image_key: Path) -> None:
    """Signed by the image key, the running phases only, and later files follow earlier ones."""
    uki = tmp_path / "appliance.efi"
    uki.write_bytes(signed_image(image_key))
    first = Measurements.parse(published(uki, "0.1.0", image_key))
    key = serialization.load_pem_private_key(image_key.read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    first.follows(None, key.public_key())
    values = measurements.pcr11(sections(uki.read_bytes()))
    [image] = first.images
    assert (image.version, image.number, first.serial, first.minimum) == ("0.1.0", 1000, 1, 0)
    assert image.pcrs == {11: tuple(values[phase] for phase in list(BY_SYSTEMD)[2:])}
    assert first.image_of({11: values["enter-initrd:leave-initrd:sysinit:ready"], 4: b"x"}) == image
    assert first.image_of({11: values["enter-initrd"]}) is None
    uki.write_bytes(signed_image(image_key, osrel=b"IMAGE_VERSION=0.2.0\n"))
    second = Measurements.parse(published(uki, "0.2.0", image_key, previous=first))
    second.follows(first, key.public_key())
    assert [one.version for one in second.images] == ["0.1.0", "0.2.0"]
    third = Measurements.parse(published(uki, "0.2.0", image_key, previous=second, minimum=2000))
    assert ([one.version for one in third.images], third.minimum, third.serial) == (["0.2.0"], 2000, 3)
    with pytest.raises(RefusedError, match="other measurements"):
        published(uki, "0.1.0", image_key, previous=second)
    with pytest.raises(RefusedError, match="below the smallest"):
        published(uki, "0.1.9", image_key, previous=third)


def test_the_key_must_be_the_image_key(tmp_path: Path) -> None:
    """An operator's key, or no key, signs no measurements."""
    uki, path = tmp_path / "appliance.efi", tmp_path / "key"
    uki.write_bytes(kernel_image())
    other = ec.generate_private_key(ec.SECP256R1())
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    for text in (b"no key", other.private_bytes(serialization.Encoding.PEM, form, plain)):
        path.write_bytes(text)
        with pytest.raises(RefusedError) as caught:
            published(uki, "0.1.0", path)
        assert caught.value.reason is Reason.BAD_KEY


def test_numbers_grow_with_versions(tmp_path: Path) -> None:
    """And a version that is none has none."""
    versions = ["0.0.1", "0.1.0", "0.1.999", "0.2.0", "1.0.0", "26.11.3", "2146.999.999"]
    numbers = [image_number(version) for version in versions]
    assert numbers == sorted(set(numbers))
    assert image_number("0.1.0~dev+5") == 1000
    for bad in ("1", "1.2", "1.1000.0", "2147.0.0", "v1.2.3", "1.2.3 ", ""):
        with pytest.raises(RefusedError, match=r"major\.minor\.patch"):
            image_number(bad)
    (tmp_path / "x").write_bytes(efi_program([(".text", b"\xc3")]))
    with pytest.raises(RefusedError, match="no kernel image"):
        image_of(tmp_path / "x", "0.1.0", rsa.generate_private_key(65537, 2048).public_key())


def test_an_image_that_the_key_did_not_sign_is_not_published(tmp_path: Path, image_key: Path) -> None:
    """Another key's signatures, those over another image, and none."""
    uki, other = tmp_path / "appliance.efi", tmp_path / "other.key"
    key = rsa.generate_private_key(65537, 2048)
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    other.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, plain))
    elsewhere = measurements.running_values(sections(kernel_image(cmdline=b"init=/bin/sh")))
    for image in (
        signed_image(other),
        kernel_image(pcrsig=pcr_signatures(key, list(elsewhere))),
        kernel_image(pcrsig=b'{"sha256":[]}'),
    ):
        uki.write_bytes(image)
        with pytest.raises(DeniedError) as caught:
            published(uki, "0.1.0", image_key)
        assert caught.value.reason is Reason.IMAGE_NOT_SIGNED
    uki.write_bytes(kernel_image())
    with pytest.raises(RefusedError):
        published(uki, "0.1.0", image_key)
    uki.write_bytes(signed_image(image_key))
    assert published(uki, "0.1.0", image_key)
