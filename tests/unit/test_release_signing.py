# SPDX-License-Identifier: Apache-2.0
"""A release whose key is on another machine: built without a signature, signed there, put together here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.cli.main import cli
from appliance.flash.release import open_release
from appliance.flash.signing import attach, read_unsigned, sign_sums
from appliance.keys.operators import new_operator_key
from tests.flashing import VERSION, inputs, small_image
from tools.image.errors import BuildError
from tools.image.keys import BuildKeys
from tools.image.release import assemble

PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release as a build leaves it that has no release key."""
    folder = tmp_path_factory.mktemp("built")
    assemble(replace(inputs(folder / "in", small_image()), key=None), folder / "out")
    return folder / "out"


@pytest.fixture
def release(built: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(built, tmp_path / "release"))


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    """The release key."""
    return ec.generate_private_key(ec.SECP256R1())


def test_a_build_without_the_key_leaves_no_signature(release: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """And what it leaves is no release yet."""
    assert not (release / "SHA256SUMS.sig").exists()
    with pytest.raises(RefusedError) as caught:
        open_release(release, [key.public_key()])
    assert caught.value.reason is Reason.BAD_IMAGE


@pytest.mark.parametrize("carried", ["the folder", "the list"])
def test_what_was_signed_elsewhere_is_a_release(
    release: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey, carried: str
) -> None:
    """By the list alone or the whole folder: the same bytes are signed. A second time changes nothing."""
    unsigned = read_unsigned(release if carried == "the folder" else release / "SHA256SUMS")
    assert (unsigned.manifest is None) == (carried == "the list")
    signature = tmp_path / "back.sig"
    signature.write_bytes(sign_sums(unsigned, key))
    opened = attach(release, signature, key.public_key())
    assert opened.manifest.version == VERSION
    assert open_release(release, [key.public_key()]) == opened
    assert attach(release, signature, key.public_key()) == opened


def lost(folder: Path) -> None:
    """A file that is in the list."""
    (folder / "manifest.json").unlink()


def altered(folder: Path) -> None:
    """One byte of the image."""
    path = next(folder.glob("*.raw.zst"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def added(folder: Path) -> None:
    """A file that nobody has listed."""
    (folder / "extra.txt").write_text("x")


def relisted(folder: Path) -> None:
    """The list itself, to fit a file that was altered."""
    altered(folder)
    import hashlib

    path = next(folder.glob("*.raw.zst"))
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    new = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" if path.name in x else x for x in lines]
    (folder / "SHA256SUMS").write_text("\n".join(new) + "\n")


DAMAGES: tuple[Callable[[Path], None], ...] = (lost, altered, added, relisted)


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_does_not_fit_is_neither_signed_nor_put_together(
    release: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey, damage: Callable[[Path], None]
) -> None:
    """On either machine; a list that was made anew has the manifest against it, or the signature."""
    signature = tmp_path / "back.sig"
    signature.write_bytes(sign_sums(read_unsigned(release), key))
    damage(release)
    with pytest.raises(RefusedError) as caught:
        read_unsigned(release)
    assert caught.value.reason is Reason.BAD_IMAGE
    with pytest.raises((RefusedError, DeniedError)):
        attach(release, signature, key.public_key())
    assert not (release / "SHA256SUMS.sig").exists()


def test_another_signature_is_not_put_there(release: Path, tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Of another key, of another list, of nothing; nor over one that is there."""
    other = ec.generate_private_key(ec.SECP256R1())
    unsigned = read_unsigned(release)
    signature = tmp_path / "back.sig"
    for data in (
        sign_sums(unsigned, other),
        sign_sums(replace(unsigned, text=unsigned.text + b"\n"), key),
        b"",
        bytes(72),
    ):
        signature.write_bytes(data)
        with pytest.raises(DeniedError) as caught:
            attach(release, signature, key.public_key())
        assert caught.value.reason is Reason.IMAGE_UNSIGNED
    signature.write_bytes(sign_sums(unsigned, key))
    attach(release, signature, key.public_key())
    kept = (release / "SHA256SUMS.sig").read_bytes()
    signature.write_bytes(sign_sums(unsigned, key))
    with pytest.raises(RefusedError, match="another one"):
        attach(release, signature, key.public_key())
    assert (release / "SHA256SUMS.sig").read_bytes() == kept


# -- the commands ------------------------------------------------------------------------------------------------------


def run(*arguments: object, given: str = "") -> Result:
    """A command of bsfg."""
    return CliRunner().invoke(cli, list(map(str, arguments)), input=given)


def test_the_whole_way(release: Path, tmp_path: Path) -> None:
    """With the passphrase asked for, and the list shown before."""
    private, back = tmp_path / "release.pem", tmp_path / "back.sig"
    new_operator_key(private, PASSPHRASE)
    (tmp_path / "word").write_text(f"{PASSPHRASE}\n")
    options = ("--key", private, "--passphrase-file", tmp_path / "word", "--out", back)
    done = run("image", "sign", release, *options, given="n\n")
    assert (done.exit_code, back.exists()) == (1, False)
    assert read_unsigned(release).digest in done.output
    assert VERSION in done.output
    done = run("image", "sign", release / "SHA256SUMS", *options, given="y\n")
    assert done.exit_code == 0, done.output
    assert "none of its files was looked at" in done.output
    done = run("image", "sign", release, *options, "--yes", "--output", "json")
    assert json.loads(done.stdout)["version"] == VERSION
    done = run("image", "attach", release, back, "--key", f"{private}.pub")
    assert done.exit_code == 0, done.output
    assert run("image", "verify", release, "--key", f"{private}.pub").exit_code == 0
    (tmp_path / "word").write_text("something else\n")
    done = run("image", "sign", release, *options, "--yes")
    assert "bad_key" in done.output


# -- the build's keys --------------------------------------------------------------------------------------------------


def test_a_build_is_given_the_public_half_alone(tmp_path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """None is made in its place; without either half it says what is missing."""
    public = tmp_path / "release.pem.pub"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    made = BuildKeys.create(tmp_path / "keys", public)
    assert (made.signs_releases, made.development) == (False, False)
    given = BuildKeys.given(tmp_path / "keys")
    assert not given.signs_releases
    assert given.public("release").read_bytes() == public.read_bytes()
    given.public("release").unlink()
    with pytest.raises(BuildError, match=r"release\.pub"):
        BuildKeys.given(tmp_path / "keys")
    public.write_text("no key")
    with pytest.raises(BuildError):
        BuildKeys.create(tmp_path / "other", public)
