# SPDX-License-Identifier: Apache-2.0
"""Programs, libraries and Python modules in places that can be written: root itself cannot have them run.

The attacker here is root on the box (by the agent of profile ``test``): the worst case after a service was taken over.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.vm.conftest import fresh
from tests.vm.golden import Golden
from tools.vm.agent import Agent

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

IMPORT = """
import os, subprocess, sys
python = "/usr/lib/bsfg/venv/bin/python"
place = sys.argv[1]
os.makedirs(place, exist_ok=True)
for name in ("json.py", "appliance.py", "sitecustomize.py", "usercustomize.py", "attack.py"):
    with open(os.path.join(place, name), "w") as file:
        file.write("print('ATTACKED by ' + __file__)\\n")
with open(os.path.join(place, "attack.pth"), "w") as file:
    file.write("import attack\\n")
environment = {"PYTHONPATH": place, "PYTHONHOME": place, "PYTHONUSERBASE": place, "PYTHONSTARTUP": place + "/attack.py",
               "HOME": place, "PATH": "/usr/bin"}
done = subprocess.run([python, "-I", "-c", "import json, appliance; print(json.__file__, appliance.__file__)"],
                      env=environment, cwd=place, capture_output=True, text=True)
print(done.stdout.strip(), done.stderr.strip())
done = subprocess.run([python, "-I", "-m", "appliance.cli", "--version"], env=environment, cwd=place,
                      capture_output=True, text=True)
print(done.returncode, done.stdout.strip())
"""

SCRIPT = """
import os, subprocess, sys
place = sys.argv[1]
os.makedirs(place, exist_ok=True)
target = os.path.join(place, "attack.py")
with open(target, "w") as file:
    file.write("print('SCRIPT RAN')\\n")
for python in ("/usr/lib/bsfg/venv/bin/python", "/usr/bin/python3"):
    for options in ((), ("-I",), ("-S",), ("-E",)):
        try:
            done = subprocess.run([python, *options, target], capture_output=True, text=True)
            print(python, options, done.stdout.strip() or "refused")
        except OSError as error:
            print(python, options, type(error).__name__)
"""


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
    """Whatever environment, home and working folder it is started with."""
    said = agent.python(IMPORT, place)
    assert "ATTACKED" not in said
    assert "/usr/lib/bsfg/venv/" in said
    assert said.splitlines()[-1].startswith("0 ")


@pytest.mark.xfail(strict=True, reason="open: Python runs a script that it is told to run (threat model, B14)")
@pytest.mark.parametrize("place", PLACES[:1])
def test_python_runs_no_script_from_a_writable_place(place: str, agent: Agent) -> None:
    """However it is called. It fails for now: a script is read and not executed, as far as the kernel can tell.

    Whoever can do this can start programs on the box with words of their own choice.
    """
    assert "SCRIPT RAN" not in agent.python(SCRIPT, place)
