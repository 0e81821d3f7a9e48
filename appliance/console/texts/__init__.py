# SPDX-License-Identifier: Apache-2.0
"""What the page says, by code. A language is a file beside this one with the same four tables as ``en.py``.

A reason without a text of its own here is told in the words of :mod:`appliance.boundary.catalogue`, a suspicion of the
watchdog in those of :mod:`appliance.watchdog.suspicions`. A text that a language lacks is told in English.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.reasons import Reason
from appliance.console.codes import Ability, Overall
from appliance.watchdog.suspicions import SUSPICIONS, Code

LANGUAGES: Final = ("en",)


@dataclass(frozen=True, slots=True)
class StateText:
    """What an overall state is called, and what to do about it where no finding says more.

    :param headline: may hold ``{what}``: the most important finding.
    """

    headline: str
    do: str


@dataclass(frozen=True, slots=True)
class FindingText:
    """What is wrong, and the next step for whoever stands in front of the box."""

    what: str
    do: str


@dataclass(frozen=True, slots=True)
class Texts:
    """All texts of one language."""

    states: Mapping[Overall, StateText]
    findings: Mapping[str, FindingText]
    abilities: Mapping[Ability, str]
    labels: Mapping[str, str]

    def finding(self, code: str, *, quarantines: bool = False) -> FindingText:
        """What a code means and what to do; also for codes that this program does not know.

        :param quarantines: it is the suspicion of this name that is meant, whatever else has it.
        """
        if quarantines:
            return suspected(code)
        if code in self.findings:
            return self.findings[code]
        if code in set(Code):
            return suspected(code)
        try:
            text = CATALOGUE[Reason(code)]
        except ValueError:
            return FindingText(self.labels["unknown_code"].format(code=code), self.labels["unknown_code_do"])
        return FindingText(text.meaning, text.hint)


def suspected(code: str) -> FindingText:
    """What a suspicion of the watchdog means, in the words of its table. :raises ValueError: it is none."""
    suspicion = SUSPICIONS[Code(code)]
    return FindingText(suspicion.cause, suspicion.next_step)


def load(language: str = "en") -> Texts:
    """The texts of a language. :raises ValueError: there is no such language."""
    if language not in LANGUAGES:
        raise ValueError(f"no texts in {language!r}")
    english = import_module("appliance.console.texts.en")
    chosen = import_module(f"appliance.console.texts.{language}")
    return Texts(
        {**english.STATES, **chosen.STATES},
        {**english.FINDINGS, **chosen.FINDINGS},
        {**english.ABILITIES, **chosen.ABILITIES},
        {**english.LABELS, **chosen.LABELS},
    )
