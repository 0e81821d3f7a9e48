# SPDX-License-Identifier: Apache-2.0
"""The controls of ``hardening/*.toml``, parsed strictly, once, for the image build, the documentation and the tests."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from appliance.boundary.sections import Section

DATA: Final = Path(__file__).resolve().parents[3] / "hardening"

_ID: Final = re.compile(r"HRD-[A-Z]{3}-\d{3}")
_REQUIREMENT: Final = re.compile(r"(?:CR|NDR|EDR|HDR) [1-7]\.\d{1,2}")
_TEST: Final = re.compile(r"tests/(?:unit|service|vm)/[\w/]+\.py::test_\w+")


class Area(StrEnum):
    """A file of controls, by its name; in the order of the documentation."""

    CMDLINE = "cmdline"
    SYSCTL = "sysctl"
    MODULES = "modules"
    FIREWALL = "firewall"
    SANDBOX = "sandbox"
    SYSTEM = "system"
    REMOVED = "removed"
    KEPT = "kept"


# What a control of each area says beside value, reason, serves and test; all of it text.
EXTRA: Final[Mapping[Area, tuple[str, ...]]] = {
    Area.MODULES: ("load", "paths"),
    Area.SANDBOX: ("units",),
    Area.SYSTEM: ("file", "kind"),
    Area.REMOVED: ("from",),
    Area.KEPT: ("from",),
}


@dataclass(frozen=True, slots=True)
class Control:
    """One decision: ``value`` is what stands in the image, ``serves`` requirements, ``test`` ``path::name``."""

    id: str
    area: Area
    value: str
    reason: str
    serves: tuple[str, ...]
    test: str
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def words(self) -> list[str]:
        """The value as a list."""
        return self.value.split()


def _control(area: Area, values: Mapping[str, Any]) -> Control:
    section = Section(f"hardening/{area}.toml {values.get('id', '')}", values)
    serves = tuple(section.take("serves", str).split(", "))
    control = Control(
        id=section.take("id", str),
        area=area,
        value=section.take("value", str).strip("\n"),
        reason=section.take("reason", str),
        serves=serves,
        test=section.take("test", str),
        extra={name: section.take(name, str, "") for name in EXTRA.get(area, ())},
    )
    section.end()
    if not _ID.fullmatch(control.id):
        raise section.refuse("has no id like HRD-KRN-007")
    if not control.reason or not control.value:
        raise section.refuse("needs a value and a reason")
    if not all(_REQUIREMENT.fullmatch(name) for name in serves):
        raise section.refuse("serves no requirement like CR 3.4")
    if not _TEST.fullmatch(control.test):
        raise section.refuse("names no test")
    return control


def controls(area: Area, data: Path = DATA) -> list[Control]:
    """The controls of an area, in the order of its file. :raises RefusedError: ``bad_input``: the file is wrong."""
    document = Section(f"hardening/{area}.toml", tomllib.loads((data / f"{area}.toml").read_text("utf-8")))
    tables = document.rest()
    if set(tables) != {"control"} or not isinstance(tables["control"], list):
        raise document.refuse("holds [[control]] and nothing else")
    return [_control(area, table) for table in tables["control"]]


def all_controls(data: Path = DATA) -> Iterator[Control]:
    """Every control. :raises RefusedError: ``bad_input``: a file is wrong, or an id is used twice."""
    seen: set[str] = set()
    for area in Area:
        for control in controls(area, data):
            if control.id in seen:
                raise Section(f"hardening/{area}.toml {control.id}", {}).refuse("is used twice")
            seen.add(control.id)
            yield control
