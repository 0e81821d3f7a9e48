# SPDX-License-Identifier: Apache-2.0
"""Programs, libraries and Python modules in places that can be written: root itself cannot have them run.

The attacker here is root on the box (by the agent of profile ``test``): the worst case after a service was taken over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import interpreter_attacks
from tests.vm.conftest import fresh
from tests.vm.golden import Golden
from tools.vm import pace
from tools.vm.agent import PYTHON, Agent

PLACES = ("/var/tmp", "/tmp", "/run", "/dev/shm", "/var/lib/bsfg/agent")  # noqa: S108 - of the guest

EXECUTE = """
import os, shutil, subprocess, sys
place = sys.argv[1]
os.makedirs(place, exist_ok=True)
target = os.path.join(place, "attack")
shutil.copyfile(shutil.which("mkdir") or "/usr/bin/mkdir", target)
os.chmod(target, 0o755)
def attempt():
    try:
        return "RAN %d" % subprocess.run([target, "--version"], capture_output=True).returncode
    except OSError as error:
        return type(error).__name__
print(attempt())
mount = place
while not os.path.ismount(mount):
    mount = os.path.dirname(mount)
done = subprocess.run(["/usr/bin/mount", "-o", "remount,exec", mount], capture_output=True)
print("remounted" if done.returncode == 0 else "not remounted")
print(attempt())
subprocess.run(["/usr/bin/mount", "-o", "remount,noexec", mount], capture_output=True)
os.unlink(target)
"""

LIBRARY = """
import ctypes, glob, os, shutil, subprocess, sys
place = sys.argv[1]
os.makedirs(place, exist_ok=True)
mount = place
while not os.path.ismount(mount):
    mount = os.path.dirname(mount)
subprocess.run(["/usr/bin/mount", "-o", "remount,exec", mount], capture_output=True)
source = glob.glob("/usr/lib/x86_64-linux-gnu/libm.so.6")[0]
target = os.path.join(place, "libattack.so")
shutil.copyfile(source, target)
os.chmod(target, 0o755)
try:
    ctypes.CDLL(target)
    print("LOADED")
except OSError as error:
    print("refused", error)
done = subprocess.run(["/usr/bin/mkdir", "--version"], env={"LD_PRELOAD": target}, capture_output=True, text=True)
print("preload refused" if "cannot be preloaded" in done.stderr or done.returncode else "PRELOADED")
subprocess.run(["/usr/bin/mount", "-o", "remount,noexec", mount], capture_output=True)
os.unlink(target)
ctypes.CDLL(source)
print("control loaded")
"""

MEMORY = """
import ctypes, mmap, os, shutil, subprocess
name = os.memfd_create("attack", 0)
with open(shutil.which("mkdir") or "/usr/bin/mkdir", "rb") as file:
    os.write(name, file.read())
try:
    command = ["/proc/self/fd/%d" % name, "--version"]
    print("RAN", subprocess.run(command, pass_fds=[name], capture_output=True).returncode)
except OSError as error:
    print(type(error).__name__)
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    print("EXECUTABLE MEMORY")
except OSError as error:
    print(type(error).__name__)
"""

SITE = "/usr/lib/bsfg/venv/lib/python3.13/site-packages"
INTERPRETERS = ("/usr/lib/bsfg/venv/bin/python", "/usr/bin/python3", "/usr/bin/python3.13", "/usr/bin/bsfg")
IMPORTS = ("module from PYTHONPATH", "the product from PYTHONPATH", "byte code elsewhere", "package mounted over")


@pytest.fixture(scope="module")
def agent(golden: Golden) -> Iterator[Agent]:
    """One box for all attempts of this file: none of them may change anything."""
    box = golden.box.copy(fresh("writable_places"))
    with box.running("attack") as machine:
        yield machine.wait_agent()
        machine.power_off()
    box.forget()


@pytest.mark.parametrize("place", PLACES)
def test_a_program_in_a_writable_place_does_not_run(place: str, agent: Agent) -> None:
    """Not as it is mounted; and not when root has it mounted otherwise, for then the kernel still wants verity."""
    first, _, second = agent.python(EXECUTE, place).splitlines()
    assert (first, second) == ("PermissionError", "PermissionError")


@pytest.mark.parametrize("place", PLACES)
def test_a_library_in_a_writable_place_is_not_loaded(place: str, agent: Agent) -> None:
    """Neither by name nor before all others; the same library from its own place is."""
    said = agent.python(LIBRARY, place)
    assert "LOADED" not in said.replace("PRELOADED", "")
    assert "PRELOADED" not in said
    assert said.splitlines()[-1] == "control loaded"


def test_nothing_is_executed_from_memory(agent: Agent) -> None:
    """Neither a program in a nameless file, nor memory made executable."""
    said = agent.python(MEMORY).splitlines()
    assert said == ["PermissionError", "PermissionError"]


@pytest.mark.parametrize("place", PLACES)
def test_python_imports_nothing_from_a_writable_place(place: str, agent: Agent) -> None:
    """Whatever environment and working folder it is started with, and whatever is mounted over its own modules."""
    _attacked(agent, place, IMPORTS)


def test_python_runs_no_script_from_a_writable_place(agent: Agent) -> None:
    """However it is called: by a file, a text, a prompt, a module that runs something else, mounts over the system."""
    assert len(_attacked(agent, PLACES[0], ())) >= 37


def test_the_products_python_runs_the_product(agent: Agent) -> None:
    """The same program by all its names, and no other Python; a script of the system itself is not run either."""
    programs = {agent.check("/usr/bin/readlink", "-f", name) for name in INTERPRETERS}
    assert programs == {"/usr/bin/python3.13"}
    for start in (("/usr/bin/bsfg",), *((name, "-I", "-B", "-m", "appliance.cli") for name in INTERPRETERS[:3])):
        assert agent.check(*start, "--version").startswith("bsfg, version ")
    refused = agent.run(INTERPRETERS[0], "-I", f"{SITE}/appliance/cli/__main__.py", "--version")
    assert (refused.code, refused.out) == (126, b"")


def _attacked(agent: Agent, place: str, only: Sequence[str]) -> dict[str, Any]:
    """What came of attacks: each ran in the packaged interpreter, which the tests have, and none in the product's."""
    given = {
        "python": INTERPRETERS[0],
        "stock": PYTHON[0],
        "place": f"{place}/attack",
        "only": list(only),
        "limit_s": pace.limit(60),
        "package": f"{SITE}/appliance",
        "library": "/usr/lib/python3.13",
    }
    text = Path(interpreter_attacks.__file__).read_text("utf-8")
    found: dict[str, Any] = json.loads(agent.python(text, json.dumps(given), seconds=pace.limit(300)))
    assert [name for name, (control, *_) in found.items() if not control] == []
    assert [name for name, (_, ran, *_) in found.items() if ran] == []
    return found
