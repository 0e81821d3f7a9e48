# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.cli``: the command ``bsfg`` where it is not installed."""

from appliance.cli.main import main

if __name__ == "__main__":
    main()
