"""A service behind Sentinel: a master, a replica and a sentinel of the test's own."""

import time
from contextlib import ExitStack, suppress
from pathlib import Path

from redis.exceptions import ResponseError

from tests.support.servers import RedisServer

DEADLINE = 120.0
"""Seconds until a sentinel must have done what it was asked. One that the machine has stalled does nothing for 30."""


class SentinelServer(RedisServer):
    """A sentinel that alone decides which server is the master of the service ``cache``."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self._master = master

    def _prepare(self) -> None:
        super()._prepare()
        lines = [f"sentinel monitor cache 127.0.0.1 {self._master.port} 1", "sentinel failover-timeout cache 10000"]
        (self.folder / "sentinel.conf").write_text("\n".join(lines))

    def _command(self) -> list[str | Path]:
        program, *options = super()._command()
        return [program, self.folder / "sentinel.conf", "--sentinel", *options]


class Service:
    """A master, its replica, and a sentinel that knows both."""

    def __init__(self, stack: ExitStack) -> None:
        self.master = stack.enter_context(RedisServer())
        self.replica = stack.enter_context(RedisServer())
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", self.master.port)
        # A sentinel asks the master for its replicas at once, and again after ten seconds: one that begins too early
        # never learns of a replica that is cut off before.
        self.replicated()
        self.sentinel = stack.enter_context(SentinelServer(self.master))
        self._await_replica_known()
        self.url = f"redis+sentinel://127.0.0.1:{self.sentinel.port}/cache"

    @property
    def sentinels(self) -> list[tuple[str, int]]:
        return [("127.0.0.1", self.sentinel.port)]

    def _await_replica_known(self) -> None:
        """Waits until the sentinel could fail over: it knows the replica, and has asked it for its state."""
        deadline = time.monotonic() + DEADLINE
        with self.sentinel.client() as client:
            while not any(
                replica["port"] == self.replica.port and replica["master-link-status"] == "ok"
                for replica in client.sentinel_slaves("cache")
            ):
                assert time.monotonic() < deadline, "the sentinel does not know the replica"
                time.sleep(0.01)

    def replicated(self) -> None:
        """Waits until the replica has all writes."""
        deadline = time.monotonic() + DEADLINE
        with self.master.client() as client:
            while client.wait(1, 1_000) < 1:
                assert time.monotonic() < deadline, "the replica does not follow"

    def cut_replica_off(self) -> None:
        """Keeps all later writes from the replica."""
        with self.master.client() as client:
            client.execute_command("ACL", "SETUSER", "default", "-psync", "-sync")
            client.execute_command("CLIENT", "KILL", "TYPE", "replica")

    def fail_over(self) -> None:
        """Makes the replica the master, and waits until the sentinel reports it."""
        deadline = time.monotonic() + DEADLINE
        with self.sentinel.client() as client:
            while client.sentinel_masters()["cache"]["port"] != self.replica.port:
                assert time.monotonic() < deadline, "the sentinel does not fail over"
                with suppress(ResponseError):  # it does already, or does not know the replica well enough yet
                    client.execute_command("SENTINEL", "FAILOVER", "cache")  # again, because it may give up
                time.sleep(0.02)
