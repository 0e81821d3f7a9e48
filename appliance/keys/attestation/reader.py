# SPDX-License-Identifier: Apache-2.0
"""Reads binary structures of hostile origin from the front: what is missing, or left over, is an error. Pure."""

from __future__ import annotations

from typing import Literal


class Reader:
    """Bytes and numbers taken one after the other.

    :param order: of numbers: ``big`` in what a TPM states, ``little`` in what firmware logs.
    """

    def __init__(self, data: bytes, order: Literal["big", "little"]) -> None:
        self._data = data
        self._order: Literal["big", "little"] = order
        self._at = 0

    def __bool__(self) -> bool:
        """Whether anything is left."""
        return self._at < len(self._data)

    def take(self, size: int) -> bytes:
        """The next bytes. :raises ValueError: there are fewer."""
        part = self._data[self._at : self._at + size]
        if len(part) != size:
            raise ValueError("cut off")
        self._at += size
        return part

    def number(self, size: int) -> int:
        """A number of so many bytes, without a sign. :raises ValueError: there are fewer."""
        return int.from_bytes(self.take(size), self._order)

    def sized(self) -> bytes:
        """A length in two bytes, and as many bytes. :raises ValueError: there are fewer."""
        return self.take(self.number(2))

    def end(self) -> None:
        """:raises ValueError: something is left."""
        if self:
            raise ValueError("bytes after its end")
