# SPDX-License-Identifier: Apache-2.0
"""The sensor: a process of its own for the probes that need rights to read, and the watchdog's end of its socket."""
