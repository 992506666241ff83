"""A job in the shell: submission, the checks of receipts, and the delivery of the market's instructions.

Imports `content`, `reporting` and the rooms below them.
"""
