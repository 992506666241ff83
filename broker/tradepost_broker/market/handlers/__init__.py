"""One module for each source of events: submitters, workers' connections, their receipts, and time.

Imports `matching` and what is below it; only `core` imports it.
"""
