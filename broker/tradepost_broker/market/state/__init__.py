"""The market's memory: records by id, and the indexes over offers, waiting jobs and timers.

Imports `model` and `ledger`, and the formulas of `tradepost_reputation`.
"""
