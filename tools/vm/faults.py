# SPDX-License-Identifier: Apache-2.0
"""What can go wrong around a virtual machine. Each says what was awaited or asked, and what was there instead."""

from __future__ import annotations


class VmError(Exception):
    """Anything that went wrong with a machine or its parts."""


class NotBuiltError(VmError):
    """The image, or a tool that came with its build, is not there: ``make image`` makes it."""


class AwaitedError(VmError):
    """What was awaited did not come in time, or its opposite came."""


class EndedError(AwaitedError):
    """The machine ended while something else was awaited."""


class AgentError(VmError):
    """The guest's agent refused, or a command in the guest failed."""
