# SPDX-License-Identifier: Apache-2.0
"""A latch that was asked for stands until it is done, whatever becomes of its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from appliance.boundary.errors import DeniedError
from appliance.keys.keeper.wish import WISH_FILE, LatchWish
from appliance.keys.tpm.public import sha256

EVIDENCE = sha256(b"evidence")


def test_a_wish_survives_until_it_is_fulfilled(tmp_path: Path) -> None:
    """With the counter of then, if it was known."""
    LatchWish(tmp_path).check()
    for after in (None, 0, 2**64 - 1):
        LatchWish(tmp_path).make(EVIDENCE, after)
        wish = LatchWish(tmp_path)
        assert (wish.evidence, wish.after) == (EVIDENCE, after)
        with pytest.raises(DeniedError, match="key_latched"):
            wish.check()
        wish.fulfil()
        wish.check()
        assert LatchWish(tmp_path).evidence is None
        wish.fulfil()


def test_a_second_wish_does_not_forget_since_when(tmp_path: Path) -> None:
    """The first may have been heard by the TPM already."""
    wish = LatchWish(tmp_path)
    wish.make(EVIDENCE, 5)
    wish.make(sha256(b"more"), 6)
    assert (wish.evidence, wish.after) == (sha256(b"more"), 5)
    assert LatchWish(tmp_path).after == 5


@pytest.mark.parametrize("text", ["", "x", "00", f"{EVIDENCE.hex()}", f"{EVIDENCE.hex()} x", f"{EVIDENCE.hex()} 1 2"])
def test_a_damaged_one_is_a_wish_all_the_same(tmp_path: Path, text: str) -> None:
    """Nobody ends it by cutting its file."""
    (tmp_path / WISH_FILE).write_text(text)
    with pytest.raises(DeniedError, match="key_latched"):
        LatchWish(tmp_path).check()


def test_one_that_cannot_be_written_counts(tmp_path: Path) -> None:
    """For as long as the process lives."""
    wish = LatchWish(tmp_path / "gone")
    with pytest.raises(FileNotFoundError):
        wish.make(EVIDENCE, 1)
    with pytest.raises(DeniedError, match="key_latched"):
        wish.check()
