"""``python -m examples.releases``: runs the service, by default on private servers.

DATABASE_URL and REDIS_URL name your servers. Without PostgreSQL on this machine, the service runs on SQLite.
"""

import os
import tempfile
from contextlib import ExitStack

import uvicorn

from tests.support.servers import PostgresServer, RedisServer, ServerMissing


def main() -> None:
    with ExitStack() as private:
        if "REDIS_URL" not in os.environ:
            os.environ["REDIS_URL"] = private.enter_context(RedisServer()).url
        if "DATABASE_URL" not in os.environ:
            try:
                os.environ["DATABASE_URL"] = private.enter_context(PostgresServer()).url
            except ServerMissing as missing:
                folder = private.enter_context(tempfile.TemporaryDirectory())
                os.environ["DATABASE_URL"] = f"sqlite://{folder}/releases.sqlite3"
                print(f"SQLite, because PostgreSQL is missing: {missing}")
        port = int(os.environ.get("PORT", "8000"))
        for name, path in (("Service", "/projects"), ("Dashboard", "/cache/"), ("Metrics", "/metrics/")):
            print(f"{name + ':':<11}http://127.0.0.1:{port}{path}", flush=True)
        uvicorn.run("examples.releases.app:create_app", factory=True, port=port)


if __name__ == "__main__":
    main()
