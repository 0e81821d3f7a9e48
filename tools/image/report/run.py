# SPDX-License-Identifier: Apache-2.0
"""Collects all figures and writes the page."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path
from typing import Final

from tools.image.errors import BuildError
from tools.image.mirror import Mirror
from tools.image.places import PROFILES, Places
from tools.image.progress import Say, step
from tools.image.publish import Built
from tools.image.report import offline, running
from tools.image.report.offline import Offline
from tools.image.report.page import Figures, page
from tools.image.report.plain import plain_debian
from tools.image.toolstree import ToolsTree

PAGE: Final = Path("docs/image-report.md")
FACTS: Final = Path("build/image/report.json")


def report(places: Places, say: Say, *, machine: bool = True) -> Path:
    """Measure every image that was built; the page.

    :param machine: boot virtual machines, for what is measured of a running box.
    :raises BuildError: there is no image, or a unit of ours is more exposed than it may be.
    """
    tools = ToolsTree.ready(places, Mirror.find())
    images: list[Offline] = []
    exposures: dict[str, float] = {}
    for profile in (name for name in PROFILES if (places.out(name) / "image.json").is_file()):
        with step(say, f"image {profile}: files, sizes, sandboxes"):
            built = Built.read(places.out(profile))
            found, root = offline.look(places, tools, profile, built.version, built.roothash)
            exposures = exposures or offline.exposures(tools, root)
        images.append(found)
    if not images:
        raise BuildError("there is no image to measure", "run 'make image'")
    measured = _running(places, tools, images, say) if machine else None
    figures = Figures(machine_name(), time.strftime("%Y-%m-%d"), images, exposures, measured)
    target = places.checkout / PAGE
    target.write_text(page(figures), "utf-8")
    if over := offline.too_exposed(exposures.items()):
        raise BuildError(f"more exposed than {offline.EXPOSURE}: {', '.join(over)}", "see hardening/sandbox.toml")
    for one in images:
        if found_modes := {mode: paths for mode, paths in one.special().items() if paths}:
            raise BuildError(f"modes that no file of the {one.profile} image may have: {found_modes}")
    return target


def _running(places: Places, tools: ToolsTree, images: list[Offline], say: Say) -> running.Running:
    test = next((one for one in images if one.profile == "test"), None)
    if test is None:
        raise BuildError("there is no image of profile test", "build it, or give --no-machine")
    with step(say, "a plain Debian to compare with"):
        plain = plain_debian(places, tools, Mirror.find())
    from tools.vm.faults import VmError

    covered = next(gate.value for gate in test.gates if gate.name == "root in its slot")
    try:
        return running.measure(places.build / "report", plain, covered, say)
    except VmError as error:
        raise BuildError(f"not everything could be measured: {error}", "logs are in build/image/report") from error


def machine_name() -> str:
    """The machine, as a reader needs to know it: processor, cores, memory, system."""
    text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    release = re.search(r'^PRETTY_NAME="?([^"\n]+)', Path("/etc/os-release").read_text("utf-8"), re.MULTILINE)
    name = model[1].strip() if model else platform.machine()
    return f"{name}, {os.cpu_count()} cores, {memory:.0f} GiB of memory, {release[1] if release else platform.system()}"
