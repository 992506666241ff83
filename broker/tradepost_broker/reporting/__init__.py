"""How records look from outside: views, explanations, standings, counts and metrics.

Imports `storage`, `operator` and `streams`, and the records of `market`.
"""
