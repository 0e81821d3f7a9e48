# SPDX-License-Identifier: Apache-2.0
"""The contract between zones: messages, positions, pages, policy, and the operations over ports. No I/O.

``messages`` and ``names`` parse what comes in; ``pages`` and ``records`` are what travels and what is stored;
``store``, ``source``, ``sink`` and ``intake`` are the operations; ``crossing`` carries facts along the table in
``transfer``; ``ports`` is everything they need from the world.
"""
