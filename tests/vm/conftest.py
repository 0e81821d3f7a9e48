# SPDX-License-Identifier: Apache-2.0
"""What tests of the image share: the image, a golden box and its hub, and copies of them to be hurt.

A missing image fails these tests; it does not skip them.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.golden import Golden, ensure_golden
from tools.vm.box import Box
from tools.vm.faults import NotBuiltError
from tools.vm.hub import BenchHub
from tools.vm.images import WORK, Image
from tools.vm.journey import beside

LIMIT_S = 3600
"""Of each test: several boots, each of which has a limit of its own."""
_HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "vm: boots a virtual machine (given to everything under tests/vm)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here, and be patient with it."""
    for item in items:
        if item.path.is_relative_to(_HERE):
            item.add_marker(pytest.mark.vm)
            if item.get_closest_marker("time_limit") is None:
                item.add_marker(pytest.mark.time_limit(LIMIT_S))


@pytest.fixture(scope="session")
def image() -> Image:
    """The image of profile ``test``."""
    try:
        return Image.find("test")
    except NotBuiltError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture(scope="session")
def golden(image: Image) -> Golden:
    """A box after its first boot, and its hub; made when this image has none yet."""
    return ensure_golden(image)


@dataclass(frozen=True, slots=True)
class Bench:
    """Where one test works. :param folder: its own; logs stay in it, disks do not."""

    folder: Path
    golden: Golden

    def box(self, name: str = "box") -> Box:
        """A copy of the golden box."""
        return self.golden.box.copy(self.folder / name)

    def hub(self) -> BenchHub:
        """A copy of its hub."""
        return self.golden.copy_hub(self.folder / "hub")


def fresh(name: str) -> Path:
    """Where runs of that name leave their logs; what an earlier one left is gone, and the folder is not made."""
    folder = WORK / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    return folder


@pytest.fixture
def work(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder of this test inside the checkout's ``build``, where programs of the tools tree see it.

    Afterwards logs are left in it, and nothing large.
    """
    folder = fresh(re.sub(r"[^\w.-]+", "_", request.node.name))
    folder.mkdir(parents=True)
    yield folder
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and not path.is_symlink() and path.stat().st_size > 1 << 20:
            path.unlink()


@pytest.fixture
def bench(work: Path, golden: Golden) -> Bench:
    """Copies of the golden state, for one test."""
    return Bench(work, golden)


@pytest.fixture(scope="session")
def control(golden: Golden) -> Callable[[], None]:
    """The control of every attack: the unmodified golden box boots and speaks; tried once, and again when it is old.

    Without it, a refusal would prove nothing: a box that never boots refuses everything.
    """

    def holds() -> None:
        if not golden.controlled:
            bench = Bench(fresh("control"), golden)
            hub, box = bench.hub(), bench.box()
            with hub.running(), beside(box, hub, "control") as journey:
                journey.to_ready()
                journey.machine.power_off()
            golden.note_control(journey.times["speaking"])
            box.forget()

    return holds
