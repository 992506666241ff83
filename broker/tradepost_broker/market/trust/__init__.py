"""Whether results can be believed.

Imports the shared contract, and the formulas of `tradepost_reputation`.
"""
