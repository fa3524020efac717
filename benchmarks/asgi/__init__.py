"""Pages of a real application: uvicorn in a process of its own for each contestant, and the load in another.

``make bench`` measures them on PostgreSQL. ``python -m benchmarks.asgi`` measures nothing else.
"""
