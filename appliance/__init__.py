# SPDX-License-Identifier: Apache-2.0
"""BSFG appliance: facts cross between zones, durable before confirmed, never lost, never doubled.

The package is layered; imports point downwards only (see ``docs/architecture.md``):
``boundary`` (pure rules) < ``factlog`` < ``peer``, ``brokers``, ``keys`` < ``agent``, ``hub`` < ``dev`` < ``cli``.
"""

__version__ = "0.1.0"
