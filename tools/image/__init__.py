# SPDX-License-Identifier: Apache-2.0
"""Builds the image of the appliance: ``python -m tools.image build``.

The steps, each in a module: a Debian 13 root with the tools (:mod:`.toolstree`); keys (:mod:`.keys`); our Python
packages (:mod:`.pysite`); what is generated for mkosi (:mod:`.sandbox`); mkosi itself, then the signed kernel image
whose initrd knows the root hash (:mod:`.uki`); release files (:mod:`.release`). ``image/`` says what is in the image;
here is only how.
"""
