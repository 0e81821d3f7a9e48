# SPDX-License-Identifier: Apache-2.0
"""What hardens the box, rendered from ``hardening/`` for the image build and the documentation.

``hardening/`` is the one source: each control there has an id, a value, a reason, the requirement of IEC 62443-4-2 that
it serves, and the test that attacks it. The image build calls :func:`render`, :func:`kernel_command_line`,
:func:`removed_paths`, :func:`masked_units` and :func:`prune`; the same input gives the same bytes.
"""

from __future__ import annotations

from tools.image.hardening.build import (
    kept_programs,
    kernel_command_line,
    masked_units,
    prune,
    removed_paths,
    render,
)

__all__ = ["kept_programs", "kernel_command_line", "masked_units", "prune", "removed_paths", "render"]
