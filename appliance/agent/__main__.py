# SPDX-License-Identifier: Apache-2.0
"""``python -m appliance.agent --config FILE``: run the agent."""

from appliance.agent.agent import Agent
from appliance.node.process import main

if __name__ == "__main__":
    main("agent", Agent)
