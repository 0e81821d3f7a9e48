# SPDX-License-Identifier: Apache-2.0
"""The bill of materials in CycloneDX 1.6."""

from __future__ import annotations

import time
import uuid
from typing import Any

from tools.image.release.components import APPLIANCE, Component, components, content_digest
from tools.image.release.inputs import ReleaseInputs, RootFile, RootPackage


def cyclonedx(inputs: ReleaseInputs, files: list[RootFile], packages: list[RootPackage]) -> dict[str, Any]:
    """The document. Every file of the root stands within the component that owns it."""
    found = components(inputs, files, packages)
    image = "image"
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_OID, content_digest(inputs, found)).urn,
        "version": 1,
        "metadata": {
            "timestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(inputs.built_unix_s)),
            "component": {
                "bom-ref": image,
                "type": "operating-system",
                "name": f"{APPLIANCE}-image",
                "version": inputs.version,
                "properties": [{"name": "bsfg:root_hash", "value": inputs.root_hash}],
            },
        },
        "components": [_component(one) for one in found],
        "dependencies": [
            {"ref": image, "dependsOn": [one.ref for one in found]},
            *({"ref": one.ref, "dependsOn": list(one.linked)} for one in found if one.linked),
        ],
    }


def _component(one: Component) -> dict[str, Any]:
    made: dict[str, Any] = {
        "bom-ref": one.ref,
        "type": "application" if one.ref == APPLIANCE else "library",
        "name": one.name,
        "version": one.version,
        "description": one.about,
    }
    if one.supplier:
        made["supplier"] = {"name": one.supplier}
    if one.licence:
        made["licenses"] = [{"expression": one.licence} if " " in one.licence else {"license": {"id": one.licence}}]
    elif one.licence_text:
        made["licenses"] = [{"license": {"name": one.licence_text}}]
    if one.purl:
        made["purl"] = one.purl
    if one.files:
        made["components"] = [_file(file) for file in one.files]
    return made


def _file(file: RootFile) -> dict[str, Any]:
    made: dict[str, Any] = {
        "bom-ref": f"file:{file.path}",
        "type": "file",
        "name": file.path,
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
    }
    if file.owner.startswith("generated:"):
        made["description"] = file.owner
    return made
