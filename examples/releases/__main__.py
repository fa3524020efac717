"""``python -m examples.releases``: runs the service, on servers of its own where none are named.

DATABASE_URL and REDIS_URL name yours. Without a PostgreSQL on this machine, SQLite stands in.
"""

import os
import tempfile
from contextlib import ExitStack

import uvicorn

from tests.support.servers import PostgresServer, RedisServer, ServerMissing


def main() -> None:
    with ExitStack() as ours:
        if "REDIS_URL" not in os.environ:
            os.environ["REDIS_URL"] = ours.enter_context(RedisServer()).url
        if "DATABASE_URL" not in os.environ:
            try:
                os.environ["DATABASE_URL"] = ours.enter_context(PostgresServer()).url
            except ServerMissing as missing:
                folder = ours.enter_context(tempfile.TemporaryDirectory())
                os.environ["DATABASE_URL"] = f"sqlite://{folder}/releases.sqlite3"
                print(f"SQLite, as there is no PostgreSQL: {missing}")
        uvicorn.run("examples.releases.app:create_app", factory=True, port=int(os.environ.get("PORT", "8000")))


if __name__ == "__main__":
    main()
