# SPDX-License-Identifier: Apache-2.0
"""Reference measurements that come with the ESP: taken if the image's key signed them and they take nothing back."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.box.layout import BoxLayout
from appliance.box.measured import take_measurements
from appliance.keys.attestation.measurements import Image, Measurements
from appliance.keys.folder import PkiFolder
from appliance.keys.tpm.identity import spki_pem
from tests.tpm import image_key

BUILDER, OTHER = image_key(), image_key()


@pytest.fixture
def at(tmp_path: Path) -> BoxLayout:
    """A box with an image."""
    made = BoxLayout(tmp_path)
    for folder in (made.image, made.pki, made.brought_measurements.parent):
        folder.mkdir(parents=True)
    made.image_key.write_text(spki_pem(BUILDER.public_key()))
    return made


def document(serial: int, minimum: int = 1) -> Measurements:
    """What a builder publishes."""
    return Measurements(serial, minimum, (Image(f"1.{serial}.0", serial, {11: (bytes([serial]) * 32,)}),))


def test_what_the_builder_signed_is_kept(at: BoxLayout) -> None:
    """And replaced by what is newer; a box without any goes on."""
    kept = PkiFolder(at.pki).measurements
    assert not take_measurements(at)
    for serial in (1, 2):
        data = document(serial).sign(BUILDER).render()
        at.brought_measurements.write_bytes(data)
        assert (take_measurements(at), kept.read_bytes()) == (True, data)
        assert not take_measurements(at)  # at the next boot it lies there still


def test_nothing_else_is(at: BoxLayout) -> None:
    """Signed by somebody else, older, with a smaller minimum, cut off, too long, no file at all."""
    kept = PkiFolder(at.pki).measurements
    data = document(3, minimum=2).sign(BUILDER).render()
    at.brought_measurements.write_bytes(data)
    assert take_measurements(at)
    wrong = (
        document(4).sign(OTHER).render(),
        document(2, minimum=2).sign(BUILDER).render(),
        document(4, minimum=1).sign(BUILDER).render(),
        data[:-20],
        data + bytes(1 << 20),
        b"",
    )
    for each in wrong:
        at.brought_measurements.write_bytes(each)
        assert (take_measurements(at), kept.read_bytes()) == (False, data)
    at.brought_measurements.unlink()
    at.brought_measurements.symlink_to(at.image_key)
    assert (take_measurements(at), kept.read_bytes()) == (False, data)


def test_another_image_brings_its_own(at: BoxLayout) -> None:
    """What the former builder's key signed says nothing any more, and what stands in its place is no hindrance."""
    kept = PkiFolder(at.pki).measurements
    for former in (document(9).sign(OTHER).render(), b"nonsense"):
        kept.write_bytes(former)
        data = document(1).sign(BUILDER).render()
        at.brought_measurements.write_bytes(data)
        assert (take_measurements(at), kept.read_bytes()) == (True, data)
