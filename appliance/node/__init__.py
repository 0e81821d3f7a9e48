# SPDX-License-Identifier: Apache-2.0
"""What the agent in a plant and the hub have in common: configuration, the zone's runtime, status."""
