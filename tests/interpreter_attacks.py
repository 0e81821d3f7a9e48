# SPDX-License-Identifier: Apache-2.0
"""Ways to have an interpreter run code from a writable place, tried as root. A program of its own, to be run on a box.

Its one argument is JSON: ``python`` and ``stock`` (the interpreter under attack and a common one, in the same
environment), ``place`` (a folder that can be written), ``only`` (names of attacks; empty: all), ``limit_s`` (of each),
``package`` (the folder of package ``appliance``) and ``library`` (of the standard library). It prints JSON: for each
attack whether its code ran in the common one, whether it ran in that under attack, and the latter's exit code and last
line of complaint.
"""

from __future__ import annotations

import ctypes
import json
import marshal
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MARK = "THE ATTACK" + " RAN"
LINE = f"__import__('posix').write(1, {MARK.encode()!r})"
"""Works before there is a standard output, and in any module."""
CODE = f"# a line to be left out by -x\n{LINE}\n"
_TAG = sys.implementation.cache_tag
_NEW_NAMESPACE, _BIND, _PRIVATE = 0x20000, 0x1000, 0x44000


@dataclass(frozen=True)
class Attack:
    """One way. :param words: after the interpreter. :param binds: what is mounted over what, for it alone."""

    words: Sequence[str]
    stdin: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    binds: Sequence[tuple[Path, Path]] = ()


class Unpickled:
    """Runs when it is read."""

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        """As pickle asks."""
        return eval, (LINE,)


def byte_code(path: Path, name: str) -> None:
    """Byte code of the attack that asks nobody whether it is up to date."""
    import importlib.util

    code = compile(CODE, name, "exec")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8) + marshal.dumps(code))


def packages(place: Path, package: Path) -> dict[str, Path]:
    """Packages ``appliance`` and ``encodings`` that are not ours, with and without sources."""
    sources, compiled, prefix = place / "sources", place / "compiled", place / "prefix"
    (sources / "appliance").mkdir(parents=True)
    for name in ("__init__", "cli"):
        (sources / "appliance" / f"{name}.py").write_text(CODE)
        byte_code(compiled / f"appliance/{name}.pyc", name)
        cached = prefix / str(package).lstrip("/") / f"{name}.{_TAG}.pyc"
        byte_code(cached, name)
    byte_code(compiled / "encodings/__init__.pyc", "encodings")
    paths, home = place / "paths", place / "home"
    paths.mkdir()
    (paths / "attack.pth").write_text(f"import sys; {LINE}\n")
    library = home / f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
    (library / "encodings").mkdir(parents=True)
    for each in (library / "os.py", library / "encodings/__init__.py"):
        each.write_text(CODE)
    (place / "pyvenv.cfg").write_text(f"home = {home}/bin\n")
    return {"sources": sources, "compiled": compiled, "prefix": prefix, "paths": paths}


def scripts(place: Path) -> dict[str, Path]:
    """Scripts in all their forms."""
    plain, compiled, folder, bare, archive, link, dump, startup = (
        place / name for name in ("x.py", "y.pyc", "folder", "bare", "x.zip", "link", "dump", "startup.py")
    )
    for each in (plain, startup, place / "attack.py", place / "sitecustomize.py", place / "json.py"):
        each.write_text(CODE)
    byte_code(compiled, "y")
    folder.mkdir()
    (folder / "__main__.py").write_text(CODE)
    byte_code(bare / "__main__.pyc", "main")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("__main__.py", CODE)
    link.symlink_to(plain)
    dump.write_bytes(pickle.dumps(Unpickled()))
    found = {"plain": plain, "compiled": compiled, "folder": folder, "bare": bare, "archive": archive, "link": link}
    return {**found, "dump": dump, "startup": startup}


def attacks(place: Path, package: Path, library: Path) -> dict[str, Attack]:
    """All of them by name."""
    of, made = scripts(place), packages(place, package)
    options = ((), ("-I",), ("-S",), ("-E",), ("-B",), ("-s", "-P"), ("-u", "-x"), ("-X", "utf8"))
    found = {f"script {' '.join(each)}": Attack([*each, str(of["plain"])]) for each in options}
    for name in ("compiled", "folder", "bare", "archive", "link"):
        found[f"script: {name}"] = Attack(["-I", str(of[name])])
    module = ["-m", "appliance.cli", "--version"]
    ours, cli, first = made["sources"] / "appliance", package / "cli.py", package / "__init__.py"
    cached = package / f"__pycache__/__init__.{_TAG}.pyc"  # on a box it is read instead of the source
    environment = package.parents[3] / "pyvenv.cfg"
    over = (made["compiled"] / "appliance" / "__init__.pyc", cached) if cached.is_file() else (ours / first.name, first)
    found |= {
        "text": Attack(["-I", "-c", CODE]),
        "standard input": Attack([], CODE),
        "standard input, named -": Attack(["-I", "-"], CODE),
        "standard input, named by /dev": Attack(["-I", "/dev/stdin"], CODE),
        "standard input, named by /proc": Attack(["-I", "/proc/self/fd/0"], CODE),
        "prompt": Attack(["-I", "-i"], CODE),
        "prompt after a module": Attack(["-i", *module], CODE),
        "module from the working folder": Attack(["-m", "attack"]),
        "module from PYTHONPATH": Attack(["-m", "attack"], "", {"PYTHONPATH": str(place)}),
        "the product from PYTHONPATH": Attack(module, "", {"PYTHONPATH": str(made["sources"])}),
        "byte code from PYTHONPATH": Attack(module, "", {"PYTHONPATH": str(made["compiled"])}),
        "sitecustomize": Attack(module, "", {"PYTHONPATH": str(place)}),
        "PYTHONSTARTUP": Attack(["-i"], "", {"PYTHONSTARTUP": str(of["startup"])}),
        "byte code elsewhere": Attack(["-X", f"pycache_prefix={made['prefix']}", *module]),
        "module that runs a text": Attack(["-I", "-m", "timeit", "-n1", "-r1", LINE]),
        "module that unpickles": Attack(["-I", "-m", "pickle", str(of["dump"])]),
        "module that runs a script": Attack(["-I", "-m", "cProfile", str(of["plain"])]),
        "file of the system that runs a text": Attack(["-I", str(library / "timeit.py"), "-n1", "-r1", LINE]),
        "package mounted over": Attack(["-I", "-B", *module], binds=[(ours, package)]),
        "file mounted over": Attack(["-I", "-B", *module], binds=[over]),
        "site-packages mounted over": Attack(["-I", "-B", *module], binds=[(made["paths"], package.parent)]),
        "environment mounted over": Attack(["-I", "-B", *module], binds=[(place / "pyvenv.cfg", environment)]),
        "byte code mounted over": Attack(["-I", "-B", *module], binds=[(made["compiled"] / "appliance", package)]),
        "library mounted over": Attack(
            ["-I", "-B", *module], binds=[(made["compiled"] / "encodings", library / "encodings")]
        ),
    }
    if cli.is_file():  # a stand-in; on a box it is a package
        found["module mounted over"] = Attack(["-I", "-B", *module], binds=[(ours / "cli.py", cli)])
    return found


def mounted(binds: Sequence[tuple[Path, Path]]) -> Callable[[], None]:
    """What a child does before it becomes the interpreter: its mounts are seen by itself alone."""
    libc = ctypes.CDLL(None, use_errno=True)

    def mount() -> None:
        if libc.unshare(_NEW_NAMESPACE) or libc.mount(None, b"/", None, _PRIVATE, None):
            raise OSError(ctypes.get_errno(), "no own mounts")
        for source, target in binds:
            if libc.mount(os.fsencode(source), os.fsencode(target), None, _BIND, None):
                raise OSError(ctypes.get_errno(), str(target))

    return mount


def attempt(python: str, attack: Attack, place: Path, limit_s: float) -> tuple[bool, int, str]:
    """Whether it ran, the exit code, the last line of what was said of it."""
    done = subprocess.run(  # the one thread of this program
        [python, *attack.words],
        input=attack.stdin,
        env={"PATH": "/usr/bin", "HOME": str(place), **attack.environment},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        timeout=limit_s,
        preexec_fn=mounted(attack.binds) if attack.binds else None,
    )
    return MARK in done.stdout, done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def main() -> None:
    """Try all, each in both."""
    given = json.loads(sys.argv[1])
    place = Path(given["place"])
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    found = {}
    try:
        known = attacks(place, Path(given["package"]), Path(given["library"]))
        for name, attack in ((name, known[name]) for name in given["only"] or known):
            control, *_ = attempt(given["stock"], attack, place, given["limit_s"])
            found[name] = (control, *attempt(given["python"], attack, place, given["limit_s"]))
    finally:
        shutil.rmtree(place)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
