# SPDX-License-Identifier: Apache-2.0
"""What all keys do, however they are held: the contract suite of :class:`KeysPort`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from appliance.boundary.names import Category, ZoneId
from appliance.boundary.pages import Position, Receipt, Signature
from appliance.boundary.ports import KeysPort

PLANT = ZoneId("plant-a")
HUB = ZoneId("enterprise")
STRANGER = ZoneId("plant-x")

RECEIPT = Receipt(PLANT, HUB, Category("audit"), bytes(16), Position(7, bytes(32)), 1_795_000_000_000)
STATEMENT = RECEIPT.statement()
OTHER_STATEMENT = replace(RECEIPT, through=Position(8, bytes(32))).statement()


@dataclass(frozen=True, slots=True)
class World:
    """The keys of a plant and of its hub, which know each other, and of a zone that neither knows."""

    plant: KeysPort
    hub: KeysPort
    stranger: KeysPort


class KeysContract:
    """Subclass it with a fixture ``world``."""

    async def test_the_other_side_accepts_a_signature(self, world: World) -> None:
        """In both directions, and each side accepts its own."""
        assert world.hub.verify(PLANT, STATEMENT, await world.plant.sign(STATEMENT))
        assert world.plant.verify(HUB, STATEMENT, await world.hub.sign(STATEMENT))
        assert world.plant.verify(PLANT, STATEMENT, await world.plant.sign(STATEMENT))

    async def test_a_signature_is_for_one_statement(self, world: World) -> None:
        """One field differs."""
        assert not world.hub.verify(PLANT, OTHER_STATEMENT, await world.plant.sign(STATEMENT))

    async def test_a_signature_is_by_one_zone(self, world: World) -> None:
        """The plant cannot answer for the hub, and not with the hub's certificate either."""
        own = await world.plant.sign(STATEMENT)
        assert not world.plant.verify(HUB, STATEMENT, own)
        dressed = Signature(own.value, (await world.hub.sign(STATEMENT)).certificate)
        assert not world.plant.verify(HUB, STATEMENT, dressed)
        assert not world.plant.verify(PLANT, STATEMENT, dressed)

    async def test_a_zone_that_is_not_registered_proves_nothing(self, world: World) -> None:
        """However good its signature is."""
        signature = await world.stranger.sign(STATEMENT)
        assert world.stranger.verify(STRANGER, STATEMENT, signature)
        assert not world.hub.verify(STRANGER, STATEMENT, signature)
        assert not world.hub.verify(PLANT, STATEMENT, signature)

    async def test_damage_is_seen(self, world: World) -> None:
        """Every bit of the value's ends, an empty value, no certificate, other bytes for it."""
        good = await world.plant.sign(STATEMENT)
        spoilt = [
            Signature(bytes([good.value[0] ^ 1]) + good.value[1:], good.certificate),
            Signature(good.value[:-1] + bytes([good.value[-1] ^ 1]), good.certificate),
            Signature(good.value + b"\0", good.certificate),
            Signature(good.value[:-1], good.certificate),
            Signature(b"", good.certificate),
            Signature(good.value, b""),
            Signature(good.value, good.certificate[:-1]),
            Signature(good.value, b"no certificate"),
        ]
        assert [world.hub.verify(PLANT, STATEMENT, signature) for signature in spoilt] == [False] * len(spoilt)

    @pytest.mark.parametrize("statement", [b"", b"bsfg.v1", b"\x30\x82\x01\x00 a certificate to be signed"])
    async def test_only_statements_of_this_product_are_signed(self, world: World, statement: bytes) -> None:
        """The same key issues certificates; nobody may get one by asking for a receipt."""
        with pytest.raises(ValueError, match="statements of this product only"):
            await world.plant.sign(statement)
        assert not world.hub.verify(PLANT, statement, await world.plant.sign(STATEMENT))
