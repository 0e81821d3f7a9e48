# SPDX-License-Identifier: Apache-2.0
"""The local class of keys: credentials of local applications, and the certificates of the plant-side listeners.

They are never latched: nothing here knows the keeper, a TPM or the hub, so local work goes on whatever happens to
those. (DESIGN, keys and time; ADR 0009.)
"""
