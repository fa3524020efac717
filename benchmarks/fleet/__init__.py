"""A fleet of processes on paper: which part is saturated first, at how many lookups a second, and why.

``python -m benchmarks.fleet`` prints the tables of ``docs/scale.md``, ``--plots FOLDER`` draws its plots, and
``--measure`` measures the costs again. Nothing here is a measurement of a fleet: formulas and one small simulation turn
costs that were measured on one machine into loads. Plain Python, without servers except for ``--measure``.

``python -m benchmarks.fleet.cluster`` measures lookups on a Cluster against one server, and judges their budgets.

From below: ``costs`` and ``popularity``; ``nodes``, ``balance``, ``near``, ``writes`` and ``cold``; ``report``.
"""
