"""Tortoise's configuration, as ``[tool.aiomodelcache]`` names it."""

import os

TORTOISE_ORM = {
    "connections": {"default": os.environ.get("SHOP_DATABASE", "sqlite://:memory:")},
    "apps": {"shop": {"models": ["shop.models"], "default_connection": "default"}},
}
