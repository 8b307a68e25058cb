"""How long `unified_loss` takes, and how much memory, beside what it stands for.

``python -m benchmarks`` measures, writes ``benchmarks/results/*.csv`` and draws the plots of the
documentation.
"""
