"""What lookups and writes cost, measured against the floor, the bare ORM and the peers.

``make bench`` runs it; ``python -m benchmarks --help`` lists what can be asked for. Not part of the package.
"""
