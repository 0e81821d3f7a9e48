# SPDX-License-Identifier: Apache-2.0
"""Deterministic simulation of two zones around the real ``appliance.boundary`` code.

One seed makes one world: virtual time, a seeded scheduler, seeded faults, fakes instead of brokers, ledgers and
network. The same seed gives the same trace, so every failure can be replayed:

    python -m tests.sim --runs 1000 --first-seed 0
    python -m tests.sim --replay 4711
"""
