# SPDX-License-Identifier: Apache-2.0
"""The demo: real facts cross between two zones on this machine while links are cut and processes killed.

It is a client like any other: its producers and readers are stock nats-py, and what it claims at the end it has read
from the logs of both zones, not from counters.
"""
