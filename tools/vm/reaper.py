# SPDX-License-Identifier: Apache-2.0
"""``python -m tools.vm.reaper FOLDER``: end the hub in a folder when whoever started this is gone, however that came.

A hub's processes outlive the program that starts them. This one waits for the end of its standard input, which comes
with the end of that program, and is not for people.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from appliance.dev.hub_alone import HubAlone


def main() -> None:
    """Wait, and end it."""
    while os.read(0, 4096):
        pass
    HubAlone.load(Path(sys.argv[1])).stop()


if __name__ == "__main__":
    main()
