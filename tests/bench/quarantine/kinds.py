# SPDX-License-Identifier: Apache-2.0
"""The kinds of tampering that are timed, each with its probe: those of the tests' tables that quarantine a box."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from appliance.watchdog.probes.firewall import FirewallPlaces, FirewallProbe
from appliance.watchdog.probes.listeners import ListenerPlaces, ListenersProbe
from appliance.watchdog.probing import Probe
from appliance.watchdog.suspicions import SUSPICIONS, Code, ProbeName
from tests.boxspace import BoxSpace
from tests.firewalled import numbered
from tests.tampering import TAMPERINGS, Ground, Tampering
from tests.tampering_network import FIREWALL_TAMPERINGS, SOCKET_TAMPERINGS, FirewallTampering, SocketTampering
from tools.image.hardening.build import DEVICE_RULES, FIREWALL

UNTIMED: Final = frozenset({"false_reference", "leased_plant", "tap", "new_port"})
"""Of the first the probe makes its like itself; the second opens the plant's side alone; the third cannot be undone by
who did it; the last is a note. All are tests."""


SOCKETS: Final = frozenset({Code.LISTENER_FOREIGN, Code.RAW_SOCKET_FOREIGN})


@dataclass(slots=True)
class Act:
    """A probe, and what is done to what it looks at. Blocking calls."""

    probe: Probe
    inject: Callable[[], object]
    undo: Callable[[], object]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of tampering. :param event: the kernel tells of it, so that nobody has to ask.

    :param real: done to the kernel's own state; else to a laid-out tree, which is a simulation.
    """

    code: Code
    what: str
    event: bool
    real: bool
    act: Callable[[Stage], AbstractContextManager[Act]]


@dataclass(slots=True)
class Stage:
    """Where acts are played: this process stands in the box's network. :param root: has the image's rules.

    :param restore: loads the firewall anew, as after boot.
    """

    space: BoxSpace
    root: Path
    scripts: tuple[Path, ...]
    restore: Callable[[], object]


def kinds() -> tuple[Kind, ...]:
    """All of them."""
    found = [_of_scene(each) for each in TAMPERINGS if SUSPICIONS[each.code].quarantines]
    found += [_of_rules(each) for each in FIREWALL_TAMPERINGS if _counts(each)]
    found += [_of_socket(each) for each in SOCKET_TAMPERINGS if each.name not in UNTIMED]
    return tuple(found)


def _is_told(tampering: Tampering) -> bool:
    """Whether the kernel tells of it: the box's own mounts, folders of units, what device-mapper says of itself.

    The mounts of one service alone are asked for, and generated units are looked at twice.
    """
    probe = SUSPICIONS[tampering.code].probe
    mounts = probe is ProbeName.MOUNTS and "one service" not in tampering.what
    units = tampering.code is Code.UNIT_FOREIGN and "generated" not in tampering.what
    watched = tampering.real and (mounts or units)
    return watched or tampering.code is Code.VERITY_CORRUPT or tampering.what == "another mapping was loaded"


def _counts(tampering: FirewallTampering) -> bool:
    return SUSPICIONS[tampering.code].quarantines and tampering.name not in UNTIMED


def _of_scene(tampering: Tampering) -> Kind:
    @contextmanager
    def act(stage: Stage) -> Iterator[Act]:
        with (
            tempfile.TemporaryDirectory(prefix="bsfg-act-") as folder,
            tampering.scene(Ground(Path(folder), stage.space)) as scene,
        ):
            yield Act(scene.probe, scene.inject, lambda: None if scene.lasting else scene.undo())

    return Kind(tampering.code, tampering.what, _is_told(tampering), tampering.real, act)


def _of_rules(tampering: FirewallTampering) -> Kind:
    @contextmanager
    def act(stage: Stage) -> Iterator[Act]:
        places = FirewallPlaces(stage.root / FIREWALL, stage.root / DEVICE_RULES, stage.scripts)
        probe = FirewallProbe(places, numbered)
        try:
            yield Act(probe, lambda: _nft(tampering.text), stage.restore)
        finally:
            probe.close()

    return Kind(tampering.code, tampering.name, True, True, act)


def _of_socket(tampering: SocketTampering) -> Kind:
    @contextmanager
    def act(stage: Stage) -> Iterator[Act]:
        allowed = stage.root / "listeners.json"
        allowed.write_text("[]\n", "utf-8")
        probe = ListenersProbe(ListenerPlaces(allowed=allowed))
        with ExitStack() as stack:
            stack.callback(probe.close)
            yield Act(probe, lambda: stack.enter_context(_program(tampering)), stack.pop_all().close)

    return Kind(tampering.code, tampering.name, False, True, act)


@contextmanager
def _program(tampering: SocketTampering) -> Iterator[None]:
    source = f"import os, socket, sys\n{tampering.source}\nprint('open', flush=True)\nsys.stdin.read()"
    become = (
        ["setpriv", f"--reuid={tampering.uid}", f"--regid={tampering.uid}", "--clear-groups"] if tampering.uid else []
    )
    python = str(Path(sys.executable).resolve())
    with subprocess.Popen(
        [*become, python, "-I", "-c", source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"open\n"
            yield
        finally:
            process.kill()


def _nft(text: str) -> None:
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True, capture_output=True, timeout=30)
