"""The real reader and writer, in every order of what they send that is worth trying.

``schedule`` lets one thing happen at a time. ``database`` and ``store`` are what the code under test sends to.
``stage`` plays a scenario and checks what must be true during and after it. ``scenarios`` says who does what.
``guards`` takes one guard of the library away, which must not go unnoticed.

``python -m tests.interleavings`` plays one scenario again, from a seed or from the choices that a failure has printed.
"""
