# SPDX-License-Identifier: Apache-2.0
"""The table of suspicions, and the readings that probes send."""

from __future__ import annotations

import json
import random

import pytest

from appliance.boundary.errors import RefusedError
from appliance.watchdog.probing import READING_BYTES, SEEN, Reading, Seen
from appliance.watchdog.suspicions import MAY_QUARANTINE, SUSPICIONS, Code, Origin, ProbeName, Response


def test_every_code_has_its_meaning() -> None:
    """One line each, in words for people."""
    assert set(SUSPICIONS) == set(Code)
    for code, suspicion in SUSPICIONS.items():
        assert suspicion.cause, code
        assert not suspicion.cause.endswith("."), code
        assert suspicion.next_step.endswith("."), code


def test_only_kernel_tpm_and_signatures_quarantine() -> None:
    """Else somebody at the plant could switch the link off."""
    wrong = [
        code
        for code, each in SUSPICIONS.items()
        if each.response is Response.QUARANTINE and each.origin not in MAY_QUARANTINE
    ]
    assert wrong == []
    assert Origin.SERVICE not in MAY_QUARANTINE
    assert Origin.HARDWARE not in MAY_QUARANTINE


def test_enough_kinds_quarantine() -> None:
    """At least thirty kinds of tampering have a code of their own."""
    assert sum(each.response is Response.QUARANTINE for each in SUSPICIONS.values()) >= 30


def test_a_reading_keeps_what_it_says() -> None:
    """Also when it says nothing is wrong."""
    for reading in (
        Reading(ProbeName.KERNEL),
        Reading(ProbeName.KERNEL, (Seen(Code.KEXEC_LOADED, "1"),), facts={"tainted": "0"}),
        Reading(ProbeName.MOUNTS, blind="mountinfo: no such file"),
    ):
        assert Reading.parse(reading.render()) == reading


def test_a_reading_of_hostile_names_is_cut_and_printable() -> None:
    """A mount point or a program may have any name."""
    seen = tuple(Seen(Code.MOUNT_FOREIGN, f"/\x1b[2J\n{number}" + "é" * 4096) for number in range(100))
    line = Reading(ProbeName.MOUNTS, seen, facts={str(number): "x" * 4096 for number in range(100)}).render()
    assert len(line) <= READING_BYTES
    assert line.count(b"\n") == 1
    assert b"\x1b" not in line
    assert len(Reading.parse(line).seen) == SEEN


def test_a_probe_cannot_speak_for_another() -> None:
    """And what is no reading is refused, whatever it is."""
    good = Reading(ProbeName.KERNEL, (Seen(Code.KEXEC_LOADED, "1"),)).render()
    assert Reading.parse(good).probe is ProbeName.KERNEL
    with pytest.raises(RefusedError, match="says"):
        Reading.parse(good.replace(b'"kernel"', b'"mounts"'))
    values = json.loads(good)
    changes: tuple[dict[str, object], ...] = (
        {"probe": 1},
        {"seen": {}},
        {"blind": None},
        {"facts": []},
        {"more": 1},
        {"seen": [{}]},
    )
    for change in changes:
        with pytest.raises(RefusedError):
            Reading.parse(json.dumps({**values, **change}).encode())
    chance = random.Random(1)
    for _ in range(200):
        place = chance.randrange(len(good))
        mutant = good[:place] + bytes([good[place] ^ (1 << chance.randrange(8))]) + good[place + 1 :]
        try:
            assert isinstance(Reading.parse(mutant), Reading)
        except RefusedError:
            continue
