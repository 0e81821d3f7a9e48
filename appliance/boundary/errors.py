# SPDX-License-Identifier: Apache-2.0
"""The one exception tree. Every error a user can see carries a stable reason and a hint.

The split is by whose fault it is, because that decides who must act:

* :class:`RefusedError` - what came in is wrong; the sender must change it; retrying as it is cannot help.
* :class:`DeniedError` - the caller may not do this.
* :class:`PositionError` - the sides disagree about where they are; the frontier in the error resolves it.
* :class:`UnavailableError` - a resource is away for now; retrying with backoff is right.
* :class:`IntegrityError` - what is stored is not what was stored; an operator must look.
"""

from __future__ import annotations

from typing import TypeVar

from appliance.boundary.catalogue import CATALOGUE
from appliance.boundary.reasons import Reason, ReasonText

E = TypeVar("E", bound=BaseException)


class BsfgError(Exception):
    """Root of all errors of this product.

    :param reason: the stable code; programs decide by it.
    :param detail: what exactly happened here, for people (names, numbers); never a secret.
    """

    def __init__(self, reason: Reason, detail: str = "") -> None:
        # What a peer or producer sent may stand in here, and must be fit for logs, headers and answers.
        self.detail = detail.encode(errors="backslashreplace").decode()
        super().__init__(reason, self.detail)
        self.reason = reason

    @property
    def text(self) -> ReasonText:
        """The catalogue entry: what it means, the hint, the RPC code, the exit code."""
        return CATALOGUE[self.reason]

    @property
    def hint(self) -> str:
        """What the reader can do about it."""
        return self.text.hint

    def __str__(self) -> str:
        message = f"{self.reason}: {self.text.meaning}"
        return f"{message} ({self.detail})" if self.detail else message


class RefusedError(BsfgError):
    """The content or request is wrong and was refused; nothing was stored."""


class DeniedError(BsfgError):
    """The caller's identity or credential does not allow this."""


class PositionError(BsfgError):
    """A page or fetch does not continue where the other side stands.

    :param epoch: the answering side's epoch for this log (16 bytes; empty: unknown).
    :param offset: its frontier.
    :param head: its chain head there.
    """

    def __init__(
        self, reason: Reason, detail: str = "", *, epoch: bytes = b"", offset: int = 0, head: bytes = b""
    ) -> None:
        super().__init__(reason, detail)
        self.epoch = epoch
        self.offset = offset
        self.head = head


class UnavailableError(BsfgError):
    """A broker, peer or resource cannot be reached now; the outcome of a call in flight may be unknown."""


class IntegrityError(BsfgError):
    """Stored facts, ledger or proofs contradict each other."""


def first_error(group: BaseExceptionGroup[E]) -> E:
    """One error out of those that nurseries have wrapped, however deep."""
    error = group.exceptions[0]
    return first_error(error) if isinstance(error, BaseExceptionGroup) else error
