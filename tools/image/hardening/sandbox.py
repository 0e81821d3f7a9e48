# SPDX-License-Identifier: Apache-2.0
"""Drop-ins that shut each unit in: which directives a unit gets, in which order.

A control of ``hardening/sandbox.toml`` names its units: ``*`` is every unit of ours, ``!name`` takes one out again, a
plain name is a unit of ours or of others. A drop-in is all directives of its unit in the order of the file; a later
one replaces or extends an earlier one, as systemd has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tools.image.hardening.data import Control

OURS: Final = (
    "bsfg-agent.service",
    "bsfg-audit.service",
    "bsfg-carry.service",
    "bsfg-console@.service",
    "bsfg-dark.service",
    "bsfg-enrol.service",
    "bsfg-firewall-device@.service",
    "bsfg-firewall-sets.service",
    "bsfg-firewall.service",
    "bsfg-installer.service",
    "bsfg-keeper.service",
    "bsfg-local.service",
    "bsfg-names-sets.service",
    "bsfg-names.service",
    "bsfg-ports.service",
    "bsfg-power@.service",
    "bsfg-recovery.service",
    "bsfg-sensor.service",
    "bsfg-site.service",
    "bsfg-stick.service",
    "bsfg-trial.service",
    "bsfg-usb.service",
    "bsfg-watchdog.service",
    "nats-control-reload.service",
    "nats-control.service",
    "nats-facts-reload.service",
    "nats-facts.service",
)
"""Services of this product; each gets everything that ``*`` gets."""


def units_of(control: Control) -> set[str]:
    """The units that a control is for, with their endings. A name without one is a service."""
    named: set[str] = set()
    for word in control.extra["units"].split():
        if word == "*":
            named |= set(OURS)
        elif word.startswith("!"):
            named.discard(_unit(word[1:]))
        else:
            named.add(_unit(word))
    return named


def drop_ins(sandbox: list[Control]) -> Iterator[tuple[str, str]]:
    """Each unit that has any directive, sorted, with the text of its drop-in."""
    for unit in sorted({unit for control in sandbox for unit in units_of(control)}):
        mine = [control for control in sandbox if unit in units_of(control)]
        parts = [f"\n# {control.id}\n{control.value}\n" for control in mine]
        yield unit, "\n[Service]\n" + "".join(parts)


def _unit(name: str) -> str:
    return name if "." in name else f"{name}.service"
