"""The tests. They start their own servers (``servers``) and count what is sent to them (``aiomodelcache.testing``)."""
