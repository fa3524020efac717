"""An application with rows and entries, for which commands are run."""

import re
from pathlib import Path

import pytest

from aiomodelcache import ModelCache
from tests.support.application import MODULE, Application
from tests.support.databases import SQLiteDatabases
from tests.support.models.shop_models import Latest, Listing, ListingCount, Mark, Rate, Seller, titles
from tests.support.servers import RedisServer


@pytest.fixture
def application(
    request: pytest.FixtureRequest, tmp_path: Path, redis_server: RedisServer, sqlite_databases: SQLiteDatabases
) -> Application:
    """An application with an empty database and an empty store."""
    redis_server.flush()
    folder = tmp_path / re.sub(r"\W", "_", tmp_path.name)
    folder.mkdir()
    url = sqlite_databases.create(tmp_path / "shop.sqlite3", MODULE)
    made = Application(folder, redis_server, url)
    made.configure()
    return made


async def create_rows(cache: ModelCache) -> None:
    """Creates a seller with five listings, and reads them by every kind of key."""
    seller = await Seller.create(id=1, name="kim")
    mark = await Mark.create(id=1, name="secret-mark")
    for number in range(1, 6):
        listing = await Listing.create(id=number, slug=f"secret-{number}", title=f"hidden-{number}", seller=seller)
        await listing.marks.add(mark)
    await read_rows(cache)


async def read_rows(cache: ModelCache) -> None:
    """Reads the rows by every kind of key, so that the entries are in the store."""
    for number in range(1, 6):
        await Listing.cache.get(slug=f"secret-{number}")
    first = await Listing.cache.get(id=1)
    await first.marks
    await Listing.cache.filter(seller=1)
    await Listing.cache.get_or_none(slug="secret-none")
    await Latest(1)
    await ListingCount(1)
    await titles(1)
    await Rate("secret-rate")


@pytest.fixture
def filled(application: Application) -> Application:
    """The application with rows and entries."""
    application.do(create_rows)
    return application
