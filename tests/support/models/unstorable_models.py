"""A model that cannot be cached, since a field does not define how its values are stored."""

import ipaddress

from tortoise import fields

from aiomodelcache import CachedModel


class AddressField(fields.Field[ipaddress.IPv4Address]):
    SQL_TYPE = "VARCHAR(40)"
    field_type = ipaddress.IPv4Address


class Network(CachedModel):
    id = fields.IntField(primary_key=True)
    address = AddressField()
