# SPDX-License-Identifier: Apache-2.0
"""The report as a page of the documentation. Pure: figures in, text out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tools.image.gates import MB
from tools.image.hardening.data import Area, controls
from tools.image.report.offline import EXPOSURE, Offline
from tools.image.report.plain import ABOUT
from tools.image.report.running import IDLE_S, Running

MEMORY_KIB: Final = 250 * 1024
"""What all processes of an idle box together may take."""
HEAD: Final = "<!-- Written by 'make image-report' on the machine that it names; run it again, do not edit. -->"
NOT_MEASURED: Final = "Not measured in this run: it needs a virtual machine, and the image of profile `test`."


@dataclass(frozen=True, slots=True)
class Figures:
    """All that stands on the page. :param machine: on which it was measured. :param exposures: by unit.

    :param built_s: seconds of the last build from scratch by step, as far as they are known.
    """

    machine: str
    day: str
    images: Sequence[Offline]
    exposures: Mapping[str, float]
    running: Running | None


def page(figures: Figures) -> str:
    """The whole page."""
    return "\n".join([HEAD, "", *_lines(figures)]).rstrip() + "\n"


def _lines(figures: Figures) -> Iterator[str]:
    yield "# The image, in figures\n"
    yield f"Measured on {figures.day}. Machine: {figures.machine}. How it is built: [Image](image.md).\n"
    yield "## Sizes\n"
    yield "What is over its limit ends the build.\n"
    yield from _table(("image", "what", "size", "limit", "of it"), _sizes(figures.images))
    yield "## Files and packages\n"
    yield "The root alone; every file of it, of the initrd and of the ESP has an owner in the bill of materials.\n"
    heads = ("image", "files of the root", "bytes", "files of the initrd", "Debian packages", "Python packages")
    yield from _table(heads, map(_counts, figures.images))
    yield from _contents(figures.images[0])
    yield "## Sandboxes of our services\n"
    yield f"`systemd-analyze security --offline=true` on the unpacked root; the limit is {EXPOSURE}.\n"
    yield from _table(("unit", "exposure"), ((f"`{unit}`", value) for unit, value in sorted(figures.exposures.items())))
    yield from _running(figures.running)
    yield "## Kernel hardening\n"
    yield "What stands in the signed command line and in the kernel's settings, with the reason; the"
    yield "[whole list](reference/hardening.md) has requirements and tests, too.\n"
    for area in (Area.CMDLINE, Area.SYSCTL):
        yield from _table(("is", "reason"), ((_code(one.value), one.reason) for one in controls(area)))


def _sizes(images: Iterable[Offline]) -> Iterator[Sequence[object]]:
    for one in images:
        for gate in one.gates:
            share = f"{100 * gate.value / gate.limit:.0f} %"
            yield one.profile, gate.name, _mb(gate.value), _mb(gate.limit), share


def _counts(one: Offline) -> Sequence[object]:
    size = sum(node.size for node in one.files)
    return f"{one.profile} {one.version}", len(one.files), _mb(size), one.initrd_files, one.debian, one.python


def _contents(one: Offline) -> Iterator[str]:
    yield f"Largest folders of the {one.profile} root:\n"
    yield from _table(
        ("folder", "files", "size"), ((f"`{path}`", count, _mb(size)) for path, count, size in one.by_folder())
    )
    yield "Largest files:\n"
    yield from _table(("file", "size"), ((f"`{node.path}`", _mb(node.size)) for node in one.largest()))
    programs = one.programs()
    yield "## Programs and modes\n"
    yield f"{len(programs)} names can be executed from `PATH`: " + ", ".join(f"`{path}`" for path in programs) + ".\n"
    yield from _table(
        ("mode", "files", "which"), ((name, len(found), ", ".join(found)) for name, found in one.special().items())
    )


def _running(found: Running | None) -> Iterator[str]:
    yield "## Memory, listeners, times\n"
    if found is None:
        yield NOT_MEASURED + "\n"
        return
    yield f"The image of profile `test` in QEMU ({found.accelerator}, {found.memory_mib} MiB), enrolled with a hub and"
    yield f"left alone for {IDLE_S:.0f} s. The test agent is left out; everything else is as in `cloud`.\n"
    total = sum(size for _, size in found.pss)
    yield f"Proportional set sizes (PSS), {_mib(total)} in all; the limit is {_mib(MEMORY_KIB)}."
    yield f"Free for more: {_mib(found.memory['MemAvailable'])} of {_mib(found.memory['MemTotal'])}.\n"
    yield from _table(("process", "PSS"), ((f"`{name}`", _mib(size)) for name, size in found.pss))
    yield "What listens, and who:\n"
    yield from _table(
        ("protocol", "address", "process"), ((kind, f"`{where}`", who) for kind, where, who in found.listening)
    )
    yield f"Reading the whole root through verity: {found.scrub_s:.1f} s for {_mb(found.scrub_bytes)}.\n"
    yield "Seconds after power-on, firmware included:\n"
    yield from _table(("step", "first boot", "later boot"), _times(found))
    yield f"Beside it, on the same machine and emulator: {ABOUT}. Debian's own cloud image, which could not be had"
    yield "here, brings more and takes longer. The plain one opens no encrypted disk, uses no TPM and checks no"
    yield "signature.\n"


def _times(found: Running) -> Iterator[Sequence[object]]:
    for name in found.later:
        yield f"appliance: {name}", found.first.get(name, "-"), found.later[name]
    yield "plain Debian: login prompt", found.plain["first"], found.plain["later"]


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterator[str]:
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
    yield ""


def _code(text: str) -> str:
    return " ".join(f"`{line}`" for line in text.splitlines())


def _mb(size: int) -> str:
    return f"{size / MB:.1f} MB"


def _mib(kib: int) -> str:
    return f"{kib / 1024:.1f} MiB"
