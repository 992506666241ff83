"""`tradepost worker ...` and `tradepost kernel`: one module for each group of commands.

Imports every room; only `cli` imports it.
"""
