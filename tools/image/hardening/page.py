# SPDX-License-Identifier: Apache-2.0
"""The reference page of all controls, for ``tools/generate_docs.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from tools.image.hardening.data import DATA, Area, Control, controls

Table = Callable[[Sequence[str], Iterable[Sequence[object]]], list[str]]

ABOUT: Final[Mapping[Area, tuple[str, str]]] = {
    Area.CMDLINE: ("Kernel command line", "Signed with the kernel image, in this order."),
    Area.SYSCTL: ("Kernel settings", "`sysctl.d`, set at the start of each boot."),
    Area.MODULES: (
        "Kernel modules",
        "Denied modules are deleted from the image too, where they are modules of their own.",
    ),
    Area.FIREWALL: (
        "Firewall",
        "Each rule of [`firewall.nft`](../../hardening/files/usr/lib/bsfg/firewall.nft) counts, and names its control.",
    ),
    Area.SANDBOX: (
        "Sandboxes",
        "`*` is every service of ours, `!` takes one out. Later lines replace or extend earlier ones.",
    ),
    Area.SYSTEM: ("System", "Units that cannot be started, what starts, journal, audit, USB, folders."),
    Area.REMOVED: ("Removed", "Patterns of what is deleted from the system, the initrd, or both."),
    Area.KEPT: ("Kept programs", "Every other program is deleted from the folders where programs are looked for."),
}


def hardening_page(table: Table, data: Path = DATA) -> Iterator[str]:
    """Every control by area, and which requirement has which controls. :param table: makes a Markdown table."""
    found = {area: controls(area, data) for area in Area}
    yield "# Hardening, control by control\n"
    yield "From [`hardening/`](../../hardening/), of which the image is made. See also [Hardening](../hardening.md).\n"
    for area, listed in found.items():
        title, text = ABOUT[area]
        yield f"## {title}\n\n{text}\n"
        yield from table(["id", "is", "reason", "serves", "attacked by"], map(_row, listed))
    yield "## By requirement\n"
    yield "Numbers of IEC 62443-4-2. The product's own code serves them as well, and others besides.\n"
    named: dict[str, list[str]] = {}
    for control in (each for listed in found.values() for each in listed):
        for name in control.serves:
            named.setdefault(name, []).append(control.id)
    yield from table(
        ["requirement", "controls"], [(name, ", ".join(named[name])) for name in sorted(named, key=_order)]
    )


def _row(control: Control) -> Sequence[object]:
    value = " · ".join(f"`{line}`" for line in control.value.splitlines())
    about = {"units": "in", "file": "in", "kind": "", "from": "from", "load": "", "paths": ""}
    notes = [f"{about[name]} `{text}`" for name, text in control.extra.items() if text and about.get(name)]
    if control.extra.get("kind") == "mask":
        notes.append("masked")
    if control.extra.get("load"):
        notes.append({"asked": "loaded only by name", "boot": "loaded first"}[control.extra["load"]])
    elif "load" in control.extra:
        notes.append("denied")
    return (control.id, " — ".join([value, *notes]), control.reason, ", ".join(control.serves), f"`{control.test}`")


def _order(name: str) -> tuple[int, int, str]:
    """By number: CR 2.1, NDR 5.2, then CR 7.1."""
    kind, _, number = name.partition(" ")
    first, _, second = number.partition(".")
    return int(first), int(second), kind
