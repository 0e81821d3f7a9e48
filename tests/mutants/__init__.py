# SPDX-License-Identifier: Apache-2.0
"""Altered certificates: made part by part, so that they can be wrong in ways that no library would write."""
