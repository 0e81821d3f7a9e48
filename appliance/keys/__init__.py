# SPDX-License-Identifier: Apache-2.0
"""Keys of a zone: the boundary key, the session certificates it issues, and the registry of all zones' keys.

Two implementations stand behind the keys port (:class:`appliance.boundary.ports.KeysPort`): the keeper, whose boundary
key is in a TPM (:mod:`appliance.keys.keeper`), and **software keys**, which are files (:mod:`appliance.keys.software`):
whoever can read them owns the zone's identity. They are for development, must be chosen by name, and say so in every
status document. Local keys (:mod:`appliance.keys.local`) are a class of their own and know nothing of the boundary.
"""
