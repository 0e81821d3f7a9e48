# SPDX-License-Identifier: Apache-2.0
"""``make image-report``: measures the images that were built and writes ``docs/image-report.md``.

:mod:`.offline` looks into image files, :mod:`.running` boots the test image and a plain Debian beside it,
:mod:`.page` writes both down. Figures are of the machine and the day that the page names; limits are tests' business.
"""

from tools.image.report.run import PAGE, report

__all__ = ["PAGE", "report"]
