# SPDX-License-Identifier: Apache-2.0
"""The one way in which a build ends early."""

from __future__ import annotations


class BuildError(Exception):
    """The build cannot go on. :param hint: what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
