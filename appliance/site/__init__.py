# SPDX-License-Identifier: Apache-2.0
"""The site configuration: what one signed document says of a box, and what follows for its network and services."""
