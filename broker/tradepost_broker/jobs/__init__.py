"""A job in the shell: submission, the checks of receipts, and the delivery of the market's instructions.

Imports `streams`, `content`, `access`, `reporting` and what is below them.
"""
