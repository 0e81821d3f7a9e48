# SPDX-License-Identifier: Apache-2.0
"""The components of the root and the files of each: what both forms of the bill of materials are made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Final
from urllib.parse import quote

from tools.image.release.inputs import GO, OWN, ReleaseInputs, RootFile, RootLinked, RootPackage
from tools.image.release.licences import to_spdx

APPLIANCE: Final = "bsfg-appliance"
GENERATED: Final = "bsfg-appliance-generated"
DISTRIBUTION: Final = "debian-13"


@dataclass(frozen=True, slots=True)
class Component:
    """A package with the files of it that are in the root.

    :param ref: a name for it within a document. :param purl: its package URL; empty for what was generated.
    :param licence: an SPDX expression, empty: not known. :param licence_text: as the package says it.
    :param linked: references of what is linked into its programs.
    """

    ref: str
    name: str
    version: str
    purl: str
    supplier: str
    about: str
    licence: str
    licence_text: str
    files: tuple[RootFile, ...]
    linked: tuple[str, ...] = ()


def components(inputs: ReleaseInputs, files: list[RootFile], packages: list[RootPackage]) -> list[Component]:
    """All components. Every file is in exactly one of them."""
    by_owner: dict[str, list[RootFile]] = {}
    for file in files:
        owner = GENERATED if file.owner.startswith("generated:") else file.owner
        by_owner.setdefault(owner, []).append(file)
    made = [_installed(package, by_owner.pop(package.owner, [])) for package in packages]
    made += [_linked(one) for one in sorted({one for package in packages for one in package.linked})]
    own, generated = by_owner.pop(OWN, []), by_owner.pop(GENERATED, [])
    if by_owner:
        raise ValueError(f"files of {sorted(by_owner)} belong to no component")
    purl = f"pkg:generic/{APPLIANCE}@{quote(inputs.version, safe='')}"
    about = "the appliance's own programs, units and configuration"
    made.append(
        Component(APPLIANCE, APPLIANCE, inputs.version, purl, "", about, "Apache-2.0", "Apache-2.0", tuple(own))
    )
    if generated:
        about = "files that the build makes in the root; each says why"
        made.append(Component(GENERATED, GENERATED, inputs.version, "", "", about, "", "", tuple(generated)))
    return made


def _installed(package: RootPackage, files: list[RootFile]) -> Component:
    version = quote(package.version, safe="~")
    if package.python:
        ref, purl = f"py-{package.name}", f"pkg:pypi/{package.name.lower().replace('_', '-')}@{version}"
        supplier, about = "", "Python distribution"
    else:
        ref = f"deb-{package.name}-{package.architecture}"
        name = quote(package.name, safe="")
        purl = f"pkg:deb/debian/{name}@{version}?arch={package.architecture}&distro={DISTRIBUTION}"
        supplier, about = "Debian", f"Debian package, from source package {package.source or package.name}"
    licence = to_spdx(package.licence) or ""
    linked = tuple(_linked(one).ref for one in package.linked)
    own = tuple(files)
    return Component(ref, package.name, package.version, purl, supplier, about, licence, package.licence, own, linked)


def _linked(one: RootLinked) -> Component:
    """What has no file of its own: it is part of a program. Its licence is its source's to say."""
    version = quote(one.version, safe="~")
    if one.kind == GO:
        purl, supplier = f"pkg:golang/{quote(one.name, safe='/')}@{version}", ""
        about = "Go module, linked into a program"
    else:
        purl = f"pkg:deb/debian/{quote(one.name, safe='')}@{version}?arch=source&distro={DISTRIBUTION}"
        supplier, about = "Debian", "source package of Debian, linked into a program"
    return Component(f"{one.kind}-{one.name}-{one.version}", one.name, one.version, purl, supplier, about, "", "", ())


def content_digest(inputs: ReleaseInputs, found: list[Component]) -> str:
    """A name for exactly this content: SHA-256 over all of it, 64 hex digits. Takes the place of random ids."""
    document = [inputs.version, inputs.profile, inputs.root_hash, inputs.built_unix_s, [asdict(one) for one in found]]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
