"""Prints the servers that this machine can run, in the form of ``AIOMODELCACHE_REQUIRE``."""

from tests.support.servers import available

print(",".join(available()))
