"""The real reader and writer, in every order of what they send that is worth trying.

``schedule`` lets one thing happen at a time. ``database`` and ``store`` are what the code under test sends to.
``questions`` are what is looked up, and what the answer may be. ``stage`` plays a scenario and checks what must be true
during and after it. ``scenarios`` says who does what, in ``roles``; ``linked`` is about many-to-many lists and walks,
``values`` about what is computed, ``times`` about replicas and entries near their end.
``guards`` takes one guard of the library away, which must not go unnoticed.

``python -m tests.protocol.interleavings`` plays one scenario again, from a seed or from the choices that a failure has
printed, or all of them in random orders for as long as it is told.
"""
