# SPDX-License-Identifier: Apache-2.0
"""The case: one form, one digest; what triggered it, and the last reading of each probe."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.boundary.errors import RefusedError
from appliance.boundary.names import ZoneId
from appliance.keys.documents import render_document
from appliance.keys.tpm.public import sha256
from appliance.watchdog.probing import Reading, Seen
from appliance.watchdog.quarantine.case import Case, Moment, open_case
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName

MOMENT = Moment(ZoneId("plant-a"), "6d0a7c52-0000-4000-8000-000000000001", 1_764_000_000_000, 12_345, "2026.11")
QUARANTINING = [code for code, each in SUSPICIONS.items() if each.quarantines]
READINGS = st.lists(
    st.builds(
        Reading,
        st.sampled_from(ProbeName),
        st.just(()),
        st.text(max_size=40),
        st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3),
    )
)


@given(st.sampled_from(QUARANTINING), st.text(max_size=400), READINGS)
def test_a_case_is_read_back_as_it_was_written(code: Code, detail: str, readings: list[Reading]) -> None:
    """Whatever a probe met: of each probe one reading, printable."""
    case = open_case(MOMENT, Seen(code, detail), readings)
    again = Case.parse(case.render())
    assert again == case
    assert again.digest() == sha256(case.render()) == case.digest()
    assert [each.probe for each in case.readings] == sorted({each.probe for each in readings})


@pytest.mark.parametrize("code", [code for code in Code if code not in QUARANTINING])
def test_no_case_is_opened_for_less(code: Code) -> None:
    """What does not quarantine has no case."""
    with pytest.raises(ValueError, match="does not quarantine"):
        open_case(MOMENT, Seen(code), ())


def test_a_case_has_one_form() -> None:
    """Another order, another probe's code, readings twice or out of order, other fields: none is a case."""
    reading = Reading(ProbeName.KERNEL, (Seen(Code.KEXEC_LOADED, "an image"),))
    other = Reading(ProbeName.DISK)
    data = open_case(MOMENT, Seen(Code.KEXEC_LOADED, "an image"), [reading, other]).render()
    values = json.loads(data)
    assert Case.parse(data).readings == (other, reading)
    mutants = {
        "spaces": json.dumps(values).encode() + b"\n",
        "probe": render_document({**values, "probe": "verity"}),
        "order": render_document({**values, "readings": values["readings"][::-1]}),
        "twice": render_document({**values, "readings": values["readings"] * 2}),
        "field": render_document({**values, "more": ""}),
        "code": render_document({**values, "code": "none"}),
        "time": render_document({**values, "opened_unix_ms": "01"}),
        "zone": render_document({**values, "zone": "Plant"}),
        "image": render_document({**values, "image": "a\nb"}),
        "cut": data[:-1],
    }
    for name, mutant in mutants.items():
        with pytest.raises(RefusedError, match="bad_document"):
            pytest.fail(f"{name}: {Case.parse(mutant)}")
