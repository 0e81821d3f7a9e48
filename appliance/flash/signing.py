# SPDX-License-Identifier: Apache-2.0
"""A release whose key is on another machine: a list of checksums is carried there, and a signature comes back.

1. The build leaves a release without ``SHA256SUMS.sig``.
2. Where the key is, :func:`read_unsigned` looks through it (or takes the list alone) and :func:`sign_sums` signs.
3. Back at the release, :func:`attach` puts the signature beside the list, if it is one of the right key over this very
   list, and every file is what the list says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from appliance.boundary.errors import DeniedError, RefusedError
from appliance.boundary.reasons import Reason
from appliance.flash.release import (
    SIGNATURE,
    SUMS,
    Advance,
    Manifest,
    Release,
    check_file,
    fit_together,
    key_digest,
    parse_sums,
    read_signature,
    read_sums,
)
from appliance.keys.files import PUBLIC, write_atomically
from appliance.keys.operators import sign, verifies

Counter = Callable[[Path], Advance]
"""Makes what is told of the bytes of a file."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """What is to be signed. :param text: ``SHA256SUMS``.

    :param manifest: what the release says of itself; ``None``: only the list was given, and no file was looked at.
    """

    text: bytes
    sums: Mapping[str, str]
    manifest: Manifest | None = None

    @property
    def digest(self) -> str:
        """What two people compare: SHA-256 of the list, 64 hex digits."""
        return hashlib.sha256(self.text).hexdigest()


def read_unsigned(place: Path, counter: Counter = lambda _: lambda _: None) -> Unsigned:
    """Look at what is to be signed. :param place: the folder of a release, all of which is compared; or the list alone.

    :raises RefusedError: ``bad_image``: a file differs from the list, is missing, or is not in it.
    """
    text = read_sums(place / SUMS if place.is_dir() else place)
    sums = parse_sums(text)
    if not place.is_dir():
        return Unsigned(text, sums)
    _whole(place, sums, counter)
    return Unsigned(text, sums, fit_together(place, text, "").manifest)


def sign_sums(unsigned: Unsigned, key: ec.EllipticCurvePrivateKey) -> bytes:
    """``SHA256SUMS.sig``: a signature of the list, in its one form."""
    return sign(key, unsigned.text)


def attach(
    folder: Path, signature: Path, key: ec.EllipticCurvePublicKey, counter: Counter = lambda _: lambda _: None
) -> Release:
    """Make a release of it. One that has this signature already stays as it is.

    :raises DeniedError: ``image_unsigned``: it is not this key's signature of this list.
    :raises RefusedError: ``bad_image``: as :func:`read_unsigned`; or another signature is there already.
    """
    text, data = read_sums(folder / SUMS), read_signature(signature)
    if not verifies(key, text, data):
        raise DeniedError(Reason.IMAGE_UNSIGNED, f"{signature}: no signature of {folder / SUMS} by this key")
    _whole(folder, parse_sums(text), counter)
    release = fit_together(folder, text, key_digest(key))
    target = folder / SIGNATURE
    if target.exists() and read_signature(target) != data:
        raise RefusedError(Reason.BAD_IMAGE, f"{target} is there already, and another one")
    write_atomically(target, data, PUBLIC)
    return release


def _whole(folder: Path, sums: Mapping[str, str], counter: Counter) -> None:
    """Every file is in the list, and what it says."""
    more = sorted({path.name for path in folder.iterdir()} - {*sums, SUMS, SIGNATURE})
    if more:
        raise RefusedError(Reason.BAD_IMAGE, f"{SUMS} has no {', '.join(more[:5])}")
    for name in sorted(sums):
        check_file(folder / name, sums[name], counter(folder / name))
