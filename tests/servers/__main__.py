"""Prints the servers that this machine can run, as ``AIOMODELCACHE_REQUIRE`` wants them."""

from tests.servers import available

print(",".join(available()))
