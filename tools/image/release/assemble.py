# SPDX-License-Identifier: Apache-2.0
"""Puts a release together: compress, map, describe, sign."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from appliance.flash.release import MANIFEST, MAP_SUFFIX, SIGNATURE, SUMS, digest_of, image_name, render_sums
from appliance.keys.operators import sign
from tools.image.errors import BuildError
from tools.image.release.blocks import map_blocks
from tools.image.release.cyclonedx import cyclonedx
from tools.image.release.inputs import ReleaseInputs, read_root
from tools.image.release.spdx import spdx

RAW: Final = "appliance.raw"
LEVEL: Final = 10
"""Of zstandard: what is above it takes much longer for little."""
WINDOW_LOG: Final = 27
"""128 MiB: what the command ``zstd -d`` reads without being asked to."""
_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)


@dataclass(frozen=True, slots=True)
class _Compressed:
    """What one pass over the image finds. :param used: for each MiB, whether there is a byte that is not zero."""

    size: int
    sha256: str
    used: list[bool]


def assemble(inputs: ReleaseInputs, out: Path) -> None:
    """Make a release in ``out``, which must be empty or not be there.

    :raises BuildError: an input is missing, or does not fit.
    """
    name = image_name(inputs.version, inputs.profile)
    stem = name.removesuffix(".raw.zst")
    raw, image = inputs.folder / RAW, out / name
    if not raw.is_file():
        raise BuildError(f"there is no {raw}")
    key = None if inputs.key is None else _load_key(inputs.key, inputs.passphrase)
    files, packages = read_root(inputs.files, inputs.packages)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise BuildError(f"{out} is not empty")
    packed = _compress(raw, image, inputs.threads)
    (out / (stem + MAP_SUFFIX)).write_bytes(map_blocks(raw, packed.used).render())
    for suffix, document in (
        (".spdx.json", spdx(inputs, files, packages)),
        (".cdx.json", cyclonedx(inputs, files, packages)),
    ):
        (out / (stem + suffix)).write_bytes(_json(document))
    (out / MANIFEST).write_bytes(_json(_manifest(inputs, image, packed)))
    for path in inputs.extra:
        if (out / path.name).exists():
            raise BuildError(f"{path.name} stands twice in the release")
        shutil.copyfile(path, out / path.name)
    _sign(out, key)


def _compress(raw: Path, image: Path, threads: int) -> _Compressed:
    """Compress in one pass. With one worker or more, zstandard's result does not depend on their number."""
    import zstandard

    size, digest, used = raw.stat().st_size, hashlib.sha256(), []
    parameters = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        source_size=size,
        threads=max(1, threads),
        write_checksum=True,
        enable_ldm=True,  # the installer's kernel image is nearly that of the box
        window_log=WINDOW_LOG,
    )
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    with raw.open("rb") as source, image.open("wb") as target, packer.stream_writer(target, size=size) as writer:
        while data := source.read(_CHUNK):
            digest.update(data)
            used.append(data != _ZEROS[: len(data)])
            writer.write(data)
    return _Compressed(size, digest.hexdigest(), used)


def _manifest(inputs: ReleaseInputs, image: Path, packed: _Compressed) -> dict[str, Any]:
    """One entry, in the field names of Raspberry Pi Imager's list of systems; what is ours alone stands in ``bsfg``."""
    with image.open("rb") as file:
        digest = digest_of(file)
    profile = f" ({inputs.profile})" if inputs.profile else ""
    entry = {
        "name": f"BSFG appliance {inputs.version}{profile}",
        "description": "Gateway of a plant: facts cross durably, outbound only; keys in the TPM; x86-64 with UEFI",
        "icon": "",
        "url": image.name,
        "extract_size": packed.size,
        "extract_sha256": packed.sha256,
        "image_download_size": image.stat().st_size,
        "image_download_sha256": digest,
        "release_date": time.strftime("%Y-%m-%d", time.gmtime(inputs.built_unix_s)),
        "init_format": "none",
        "devices": ["x86-64-uefi"],
        "bsfg": {
            "version": inputs.version,
            "profile": inputs.profile,
            "root_hash": inputs.root_hash,
            "built_unix_s": inputs.built_unix_s,
            "release_key": "development" if inputs.development else "release",
        },
    }
    return {"os_list": [entry]}


def _sign(out: Path, key: ec.EllipticCurvePrivateKey | None) -> None:
    sums = {}
    for path in sorted(out.iterdir()):
        with path.open("rb") as file:
            sums[path.name] = digest_of(file)
    text = render_sums(sums)
    (out / SUMS).write_bytes(text)
    if key is not None:
        (out / SIGNATURE).write_bytes(sign(key, text))


def _load_key(path: Path, passphrase: str | None) -> ec.EllipticCurvePrivateKey:
    secret = passphrase.encode() if passphrase is not None else None
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), secret)
    except (OSError, ValueError, TypeError) as error:
        raise BuildError(f"{path}: {error}", "the release key is EC P-256, in PEM") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise BuildError(f"{path}: not EC P-256")
    return key


def _json(document: object) -> bytes:
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
