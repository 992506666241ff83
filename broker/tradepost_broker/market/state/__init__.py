"""The market's memory: records by id, and the indexes over offers, waiting jobs and timers.

Imports `model`, `ledger` and `trust`.
"""
