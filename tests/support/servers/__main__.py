"""Prints the servers that this machine can run, as ``AIOMODELCACHE_REQUIRE`` wants them."""

from tests.support.servers import available

print(",".join(available()))
