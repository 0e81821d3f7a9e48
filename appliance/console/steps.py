# SPDX-License-Identifier: Apache-2.0
"""What whoever stands in front of the box does next, by its overall state. Pure."""

from __future__ import annotations

from appliance.console.codes import Overall
from appliance.console.judgement import Judgement
from appliance.console.model import Box
from appliance.console.texts import Texts


def is_dark(box: Box, judgement: Judgement) -> bool:
    """Whether nothing at all leaves the box, by its watchdog's word."""
    return judgement.overall in {Overall.QUARANTINED, Overall.RELEASED} and box.watchdog.state in {
        "quarantined",
        "released",
    }


def next_steps(box: Box, judgement: Judgement, texts: Texts) -> tuple[str, ...]:
    """One step after the other; a quarantine has several, and they are not those of one finding."""
    if judgement.overall is Overall.QUARANTINED and box.watchdog.state == "quarantined":
        return tuple(texts.labels["release_steps"].splitlines())
    return (texts.states[judgement.overall].do,)
