# SPDX-License-Identifier: Apache-2.0
"""The keeper: the one process that opens the TPM, and the narrow door to it that other processes have.

``port`` is what it does, ``protocol`` how that is said on its unix socket, ``roles`` who may ask for what. (DESIGN:
keys and time.)
"""
