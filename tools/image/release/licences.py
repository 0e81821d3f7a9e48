# SPDX-License-Identifier: Apache-2.0
"""Licence texts of packages as SPDX expressions, where that can be done without guessing."""

from __future__ import annotations

import re
from typing import Final

_KNOWN_NAMES: Final = """
    0BSD AFL-2.1 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-1.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause
    BSD-4-Clause BSL-1.0 CC-BY-4.0 CC0-1.0 curl EPL-2.0 GFDL-1.3-only GFDL-1.3-or-later GPL-1.0-or-later GPL-2.0-only
    GPL-2.0-or-later GPL-3.0-only GPL-3.0-or-later ICU IJG ISC LGPL-2.0-only LGPL-2.0-or-later LGPL-2.1-only
    LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MIT MIT-0 MPL-1.1 MPL-2.0 NCSA OFL-1.1 OpenSSL PSF-2.0
    Python-2.0 Sleepycat TCL Unicode-3.0 Unlicense Vim X11 Zlib bzip2-1.0.6 libtiff
"""
_KNOWN: Final = frozenset(_KNOWN_NAMES.split())
_EXCEPTIONS: Final = frozenset({"Classpath-exception-2.0", "GCC-exception-3.1", "LLVM-exception", "Linux-syscall-note"})
_NAMES: Final = {  # Debian's short names (DEP 5), and what Python packages write where they have no expression
    "Expat": "MIT",
    "MIT License": "MIT",
    "MIT/X": "X11",
    "BSD-2-clause": "BSD-2-Clause",
    "BSD-3-clause": "BSD-3-Clause",
    "BSD-4-clause": "BSD-4-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "zlib": "Zlib",
    "CC0": "CC0-1.0",
    "PSF-2": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
_GNU: Final = re.compile(r"(A?GPL|LGPL|GFDL)-?v?([123](?:\.[0-9])?)(\+?)")
_TOKEN: Final = re.compile(r"\(|\)|[^\s()]+")


def to_spdx(text: str) -> str | None:
    """An SPDX expression that says what ``text`` says; None if that is not certain."""
    whole = _single(text.strip())
    if whole:
        return whole
    parts, want_name = [], True
    for token in _TOKEN.findall(text):
        if token in {"(", ")"}:
            parts.append(token)
        elif token.upper() in {"AND", "OR", "WITH"} and not want_name:
            parts.append(token.upper())
            want_name = True
        elif want_name and (name := _exception(token) if parts[-1:] == ["WITH"] else _single(token)):
            parts.append(name)
            want_name = False
        else:
            return None
    joined = " ".join(parts).replace("( ", "(").replace(" )", ")")
    return joined if parts and not want_name and joined.count("(") == joined.count(")") else None


def _single(name: str) -> str | None:
    if name in _KNOWN:
        return name
    if gnu := _GNU.fullmatch(name):
        version = gnu[2] if "." in gnu[2] else f"{gnu[2]}.0"
        made = f"{gnu[1]}-{version}-{'or-later' if gnu[3] else 'only'}"
        return made if made in _KNOWN else None
    return _NAMES.get(name)


def _exception(name: str) -> str | None:
    return name if name in _EXCEPTIONS else None
