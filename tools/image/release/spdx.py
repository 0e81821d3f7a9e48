# SPDX-License-Identifier: Apache-2.0
"""The bill of materials in SPDX 2.3."""

from __future__ import annotations

import hashlib
import re
import time
from typing import Any

from tools.image.release.components import APPLIANCE, Component, components, content_digest
from tools.image.release.inputs import ReleaseInputs, RootFile, RootPackage

_UNKNOWN = "NOASSERTION"
_IMAGE = "SPDXRef-Image"


def spdx(inputs: ReleaseInputs, files: list[RootFile], packages: list[RootPackage]) -> dict[str, Any]:
    """The document. Every file of the root is in it, contained by the package that owns it."""
    found = components(inputs, files, packages)
    name = f"{APPLIANCE}-{inputs.version}" + (f"-{inputs.profile}" if inputs.profile else "")
    ids = {file.path: f"SPDXRef-File-{number}" for number, file in enumerate(files, 1)}
    relations = [("SPDXRef-DOCUMENT", "DESCRIBES", _IMAGE)]
    for one in found:
        relations.append((_IMAGE, "CONTAINS", _ref(one)))
        relations += [(_ref(one), "CONTAINS", ids[file.path]) for file in one.files]
        relations += [(_ref(one), "STATIC_LINK", _reference(ref)) for ref in one.linked]
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{content_digest(inputs, found)}",
        "creationInfo": {
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(inputs.built_unix_s)),
            "creators": [f"Tool: {APPLIANCE}-{inputs.version}"],
        },
        "packages": [_image(inputs), *(_package(one) for one in found)],
        "files": [_file(file, ids[file.path]) for file in files],
        "relationships": [
            {"spdxElementId": left, "relationshipType": how, "relatedSpdxElement": right}
            for left, how, right in relations
        ],
    }


def _ref(one: Component) -> str:
    return _reference(one.ref)


def _reference(ref: str) -> str:
    return "SPDXRef-Package-" + re.sub(r"[^A-Za-z0-9.-]", lambda found: f"-{ord(found[0]):02x}-", ref)


def _image(inputs: ReleaseInputs) -> dict[str, Any]:
    return {
        "SPDXID": _IMAGE,
        "name": f"{APPLIANCE}-image",
        "versionInfo": inputs.version,
        "primaryPackagePurpose": "OPERATING_SYSTEM",
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "comment": f"root hash {inputs.root_hash}",
    }


def _package(one: Component) -> dict[str, Any]:
    made: dict[str, Any] = {
        "SPDXID": _ref(one),
        "name": one.name,
        "versionInfo": one.version,
        "supplier": f"Organization: {one.supplier}" if one.supplier else _UNKNOWN,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": bool(one.files),
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": one.licence or _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "comment": one.about,
    }
    if one.licence_text and one.licence_text != one.licence:
        made["licenseComments"] = f"the package says: {one.licence_text}"
    if one.files:
        made["licenseInfoFromFiles"] = [_UNKNOWN]
        made["packageVerificationCode"] = {"packageVerificationCodeValue": _verification_code(one)}
    if one.purl:
        reference = {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": one.purl}
        made["externalRefs"] = [reference]
    return made


def _verification_code(one: Component) -> str:
    """Of SPDX 2.3, 7.9: SHA-1 over the sorted SHA-1 sums of the package's files."""
    text = "".join(sorted(file.sha1 for file in one.files)).encode()
    return hashlib.sha1(text, usedforsecurity=False).hexdigest()


def _file(file: RootFile, ref: str) -> dict[str, Any]:
    made = {
        "SPDXID": ref,
        "fileName": f".{file.path}",
        "checksums": [
            {"algorithm": "SHA1", "checksumValue": file.sha1},
            {"algorithm": "SHA256", "checksumValue": file.sha256},
        ],
        "licenseConcluded": _UNKNOWN,
        "copyrightText": _UNKNOWN,
    }
    if file.owner.startswith("generated:"):
        made["comment"] = file.owner
    return made
