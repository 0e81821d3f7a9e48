# SPDX-License-Identifier: Apache-2.0
"""The brokers of a zone: nats-server found and checked, configured as designed, run, and proven durable.

``nats-facts`` holds the facts and has no way out; ``nats-control`` carries commands and events over the one outbound
leaf connection. They are two processes, so that the planes are separated by absence and not by rules (DESIGN: two
planes, never mixed).
"""
