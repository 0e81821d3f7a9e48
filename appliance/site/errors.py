# SPDX-License-Identifier: Apache-2.0
"""A site configuration that is not valid: which file, which line, why, and what is allowed there."""

from __future__ import annotations

from appliance.boundary.errors import RefusedError
from appliance.boundary.reasons import Reason


class BadSiteError(RefusedError):
    """``bad_site``. :param line: from 1; 0: no line of it. :param text: what is wrong, and what is allowed."""

    def __init__(self, file: str, line: int, text: str) -> None:
        where = f"{file}:{line}" if line else file
        super().__init__(Reason.BAD_SITE, f"{where}: {text}")
        self.file = file
        self.line = line
        self.problem = text
