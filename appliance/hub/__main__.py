# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.hub --config FILE``: run the hub."""

from appliance.hub.hub import Hub
from appliance.node.process import main

if __name__ == "__main__":
    main("hub", Hub)
