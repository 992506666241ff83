"""Whether results can be believed.

Imports `model`, and the formulas of `tradepost_reputation`.
"""
