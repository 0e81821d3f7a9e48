# SPDX-License-Identifier: Apache-2.0
"""Quarantine: the steps into it, the journal that finishes them after a power cut, and the way out."""
