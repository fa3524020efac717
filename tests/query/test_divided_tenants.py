"""Tenants whose keys are divided: writes outside of any tenant change the epochs of all, and no tenant's stamps."""

import time
from pathlib import Path
from typing import Literal

import pytest
from tortoise import Tortoise
from tortoise.connection import get_connection

from aiomodelcache import ModelCache
from tests.support.divided import DividedMemory
from tests.support.gates import gated_sql
from tests.support.models.tenant_models import Order, tenant
from tests.support.tenancies import TENANTS, create_rows, tenancy_on

pytestmark = [
    pytest.mark.only_on("no store", because="its store is its own"),
    pytest.mark.only_on("sqlite", because="it is about the store"),
]
ACME = TENANTS[0]


@pytest.mark.parametrize("kind", ["save", "clear"])
async def test_a_row_of_before_a_write_for_all_tenants_is_not_stored_late(
    tmp_path: Path, kind: Literal["save", "clear"]
) -> None:
    store, url = DividedMemory(), f"sqlite://{tmp_path}/db.sqlite3"
    async with tenancy_on("manager", url, url) as tenancy:
        await Tortoise.generate_schemas()
        await tenancy.as_tenant(ACME, lambda: create_rows(ACME, 10))
        async with ModelCache(store, tenant=lambda: tenant.get(None)):
            row = Order(id=11, tenant=ACME, number=1, team=1, customer_id=11)
            await tenancy.as_tenant(ACME, lambda: row.save(force_update=True))
        assert store._stored, "the tenant has a stamp, which is old enough"
        store._stored |= dict.fromkeys(store._stored, time.monotonic() - 60)
        await store.delete([key for key in (*store._values, *store._intents) if b"amc:i:" in key or b"amc:r:" in key])
        async with ModelCache(store, tenant=lambda: tenant.get(None)) as cache:
            with gated_sql(get_connection(ACME)) as sql:
                gate = sql.hold("SELECT", "after")
                reader = tenancy.start(ACME, lambda: Order.cache.get(number=1).resolve())
                await gate.reached()
                if kind == "save":
                    await Order(id=11, tenant=ACME, number=1, team=77, customer_id=11).save(force_update=True)
                else:
                    await get_connection(ACME).execute_script("UPDATE tenant_order SET team = 77 WHERE id = 11")
                    await cache.clear(Order)
                gate.open()
                await reader
            found = await tenancy.as_tenant(ACME, lambda: Order.cache.get(id=11).resolve())
            assert found.team == 77
