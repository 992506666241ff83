"""How records look from outside: views, explanations, standings, counts and metrics.

Imports `storage`.
"""
