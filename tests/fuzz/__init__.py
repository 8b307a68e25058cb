"""A fuzzer of values: `python -m tests.fuzz --calls 100000 --seed 1` (see `__main__`).

Hypothesis draws legal calls of finite numbers. This draws what those leave out: anything at all in
examples that count for nothing, at every option, on every backend and under every transform, and
compares losses, gradients and second derivatives with formulas of its own (`oracle`).
"""
