# SPDX-License-Identifier: Apache-2.0
"""The watchdog: whether this box may speak, proven again each second, and the lease that lets its packets out."""
