"""The command line: looks at an open cache and its store from outside of the application.

Needs the extra ``cli`` (click and rich), which nothing else imports. Prints no value of a column unless ``--values`` is
given. Must not know how lookups proceed. Top to bottom: ``main`` (the group of commands), ``top``, ``relay``,
``publication``, ``triggers`` (of relayed models), ``doctor``, ``model_faults`` (of declarations), ``raw_sql`` (in the
source), ``usage`` (keys never asked for, costs), ``advise``, ``advice`` (keys to declare and to remove), ``statements``
(as an application has sent them), ``check``, ``warm``, ``audit`` (of another cache), ``verify``, ``keys`` (and stats),
``inspect``, ``writes`` (clear, invalidate, refresh), ``explain``, ``session`` (the configured cache, opened for one
command), ``settings`` (the configuration), ``output`` (tables and JSON).
"""
