"""What ties the cache to other programs. Nothing here needs them to be installed."""
