# SPDX-License-Identifier: Apache-2.0
"""The Python of a box (``image/launcher``): compiled in the tools tree, against Debian's library of Python.

It takes the place of the packaged interpreter, so that an image has no other. The same source and the same tools give
the same bytes.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tools.image.contents import Node
from tools.image.errors import BuildError
from tools.image.places import Places
from tools.image.pysite import PYTHON, VENV
from tools.image.toolstree import ToolsTree

SOURCE: Final = Path("image/launcher/launcher.c")
PROGRAM: Final = Path("usr/bin") / PYTHON
"""Where it lies on the box."""
STOCK: Final = VENV / "bin/stock-python"
"""Where an image of profile ``test`` has the packaged interpreter, for the tests; no other image has it."""
HARDENED: Final = (
    *("-O2", "-g0", "-fPIE", "-pie", "-D_FORTIFY_SOURCE=3", "-fstack-protector-strong", "-fstack-clash-protection"),
    *("-fcf-protection=full", "-Wformat", "-Werror=format-security", "-Wl,-z,relro,-z,now", "-Wl,--as-needed"),
)
"""What Debian builds its own programs with (dpkg-buildflags, hardening=+all)."""


def launcher_tree(places: Places, tools: ToolsTree, tree: Path) -> None:
    """Compile it into a tree that is laid over the root. :raises BuildError: it does not compile."""
    shutil.rmtree(tree, ignore_errors=True)
    program = tree / PROGRAM
    program.parent.mkdir(parents=True)
    source = program.with_suffix(".c")
    shutil.copyfile(places.checkout / SOURCE, source)
    command = ["gcc", *HARDENED, f"-I/usr/include/{PYTHON}", source.name, f"-l{PYTHON}"]
    tools.run([*command, "-o", program.name], cwd=program.parent)
    source.unlink()
    program.chmod(0o755)


def check_interpreters(profile: str, nodes: Iterable[Node], launcher: Path, packaged: str) -> None:
    """The launcher is the only Python of a root; in profile ``test`` the packaged one lies beside it.

    :param launcher: as it was compiled. :param packaged: MD5 of the packaged interpreter, by dpkg.
    :raises BuildError: there is another program with a Python in it, or one is missing.
    """
    program, stock = f"/{PROGRAM}", f"/{STOCK}"
    ours = hashlib.sha256(launcher.read_bytes()).hexdigest()
    found = {node.path: node for node in nodes if node.regular}
    if program not in found or found[program].sha256 != ours:
        raise BuildError(f"{program} is not the one that was compiled", "see image/mkosi.finalize")
    others = {path for path, node in found.items() if node.md5 == packaged or _embeds(node)} - {program}
    if others != ({stock} if profile == "test" else set()):
        said = ", ".join(sorted(others)) or f"{stock} is missing"
        raise BuildError(f"interpreters beside {program} ({profile}): {said}", "see image/mkosi.finalize")


def _embeds(node: Node) -> bool:
    """Whether a program asks for the library of Python."""
    return any(name.startswith("libpython") for name in node.needs)
