# SPDX-License-Identifier: Apache-2.0
"""What ends a trial."""

from __future__ import annotations


class BenchError(Exception):
    """A trial that cannot give a figure: something did not start, did not arrive, or is not what was sent."""
