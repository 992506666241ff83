"""Trust policies of device owners, and revocation lists of market operators.

Imports `checks`.
"""
