"""A job that writes behind the cache, for ``doctor`` to find."""

from typing import Any

PUBLISH = "UPDATE event SET public = true WHERE title <> ''"


async def publish(connection: Any) -> None:
    """Publishes all events that have a title."""
    await connection.execute_query(PUBLISH)
