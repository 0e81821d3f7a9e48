# SPDX-License-Identifier: Apache-2.0
"""Keys of a zone: the boundary key, the session certificates it issues, and the registry of all zones' keys.

**Everything here is software: private keys are files, and whoever can read the file owns the zone's identity.** It
stands behind the keys port (:class:`appliance.boundary.ports.KeysPort`) and says so in its ``kind``, so that keys held
by a TPM can take its place without a change elsewhere. A box in a plant must not run on these keys.
"""
