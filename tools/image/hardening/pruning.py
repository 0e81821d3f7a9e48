# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.image.hardening.pruning ROOT PROFILE``: mkosi's last script of a tree; says what it did."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.image.hardening.build import prune


def main() -> None:
    """Prune a tree in place."""
    root, profile = sys.argv[1:]
    print("\n".join(prune(Path(root), profile)))


if __name__ == "__main__":
    main()
