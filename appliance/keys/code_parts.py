# SPDX-License-Identifier: Apache-2.0
"""The letters of a request for release as a text, and how it is cut in parts. Pure, and small enough for a status page.

``BSFG:R1:`` and Base32 (RFC 4648) without padding, all of it in the alphabet of QR codes' alphanumeric mode (ISO/IEC
18004, table 5). In parts: ``BSFG:R1:1/2:`` and the first half, ``BSFG:R1:2/2:`` and the second.
"""

from __future__ import annotations

import re
from typing import Final

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason

PREFIX: Final = "BSFG:R1:"
WHOLE: Final = re.compile(r"BSFG:R1:[A-Z2-7]{1,512}")
"""A whole text."""
TEXT_LENGTH: Final = 2048
"""More is no such text, whatever blanks it has."""
_PART: Final = re.compile(r"(?:([1-9])/([1-9]):)?([A-Z2-7]{1,512})")


def is_code(text: str) -> bool:
    """Whether a text means to be a request, or a part of one."""
    return text.lstrip()[: len(PREFIX)].upper() == PREFIX


def parts_of(text: str, count: int) -> tuple[str, ...]:
    """A text in so many parts, each of which says which one it is; one part is the text itself."""
    if count == 1:
        return (text,)
    body = text.removeprefix(PREFIX)
    size = -(-len(body) // count)
    return tuple(f"{PREFIX}{place + 1}/{count}:{body[place * size : (place + 1) * size]}" for place in range(count))


def joined(text: str) -> str:
    """The Base32 of a text, or of all its parts in any order; blanks and the case of letters do not matter.

    :raises RefusedError: ``bad_document``: it is none, or a part is missing.
    """
    if len(text) > TEXT_LENGTH:
        raise not_whole("too long")
    before, *pieces = "".join(text.split()).upper().split(PREFIX)
    if before or not pieces:
        raise not_whole(f"it begins with {PREFIX}")
    found: dict[int, str] = {}
    count = 0
    for piece in pieces:
        read = _PART.fullmatch(piece)
        if read is None:
            raise not_whole("it was not read whole")
        place, of = int(read[1] or 1), int(read[2] or 1)
        if place > of or count not in {0, of} or found.get(place, read[3]) != read[3]:
            raise not_whole("parts are of different requests")
        found[place], count = read[3], of
    if missing := sorted(set(range(1, count + 1)) - set(found)):
        raise not_whole(f"part {missing[0]} of {count} is missing")
    return "".join(found[place] for place in range(1, count + 1))


def not_whole(detail: str) -> RefusedError:
    """Why it cannot be read."""
    return RefusedError(Reason.BAD_DOCUMENT, f"request as a text: {detail}")
