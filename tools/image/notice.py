# SPDX-License-Identifier: Apache-2.0
"""``NOTICE``: the licences of everything in an image.

The box itself has no documentation, so they are published with it. Firmware and microcode stand there with the terms
under which they may be passed on.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tools.image.errors import BuildError
from tools.image.inventory import Inventory
from tools.image.owners import PRODUCT, Distribution

_LINE: Final = "=" * 80
_LICENCES: Final = ("LICEN[CS]E*", "COPYING*", "NOTICE*", "licenses/**/*", "AUTHORS*")
_HEAD: Final = """\
Licences of what is in the image {version} of the BSFG appliance, profile {profile}
{line}

The appliance's own programs are under the Apache License 2.0, at the end. Everything else is the work of others, who
are named with their terms below: Debian packages as Debian distributes them, then Python packages. Sources of Debian
packages are in Debian's archive under the versions named here; those of Python packages in the Python Package Index.
Texts that many packages refer to by a path (/usr/share/common-licenses) stand after them.
"""


def notice(found: Inventory, common: Path, own: Path, version: str, profile: str) -> str:
    """The text. :param common: a folder with the texts of common licences. :param own: our own licence.

    :raises BuildError: a package's licence is not known.
    """
    parts = [_HEAD.format(version=version, profile=profile, line=_LINE)]
    parts += _debian(found)
    parts += [_part(f"{one.name} {one.version} (Python)", _python(one)) for one in found.python if one.name != PRODUCT]
    parts += [
        _part(f"{path.name} (common licence)", path.read_text("utf-8", "replace"))
        for path in sorted(common.iterdir())
        if path.is_file() and not path.is_symlink()
    ]
    parts.append(_part("BSFG appliance", own.read_text("utf-8")))
    return "\n".join(parts)


def _debian(found: Inventory) -> Iterator[str]:
    """Packages with the very same text stand together."""
    texts: Mapping[str, str] = {**found.dpkg[1].copyrights, **found.dpkg[0].copyrights}
    together: dict[str, list[str]] = {}
    missing = []
    for package in found.packages():
        text = texts.get(package.name)
        if text is None:
            missing.append(package.name)
        else:
            together.setdefault(text, []).append(f"{package.name} {package.version}")
    if missing:
        raise BuildError(f"no copyright file was kept of {', '.join(missing)}", "see image/mkosi.postinst")
    for text, names in together.items():
        yield _part("\n".join(textwrap.wrap(", ".join(names), 80)) + "\n(Debian)", text)


def _python(one: Distribution) -> str:
    texts = []
    for pattern in _LICENCES:
        for path in sorted(one.folder.glob(pattern)):
            if path.is_file() and (text := path.read_text("utf-8", "replace")) not in texts:
                texts.append(text)
    return "\n\n".join(texts) or f"Licence, as the package says it: {one.licence or 'not said'}\n"


def _part(title: str, text: str) -> str:
    return f"\n{_LINE}\n{title}\n{_LINE}\n\n{text.rstrip()}\n"
