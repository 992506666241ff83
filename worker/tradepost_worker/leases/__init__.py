"""A lease from grant to acknowledgement: admit the pipeline, fetch, run, sign, keep until acknowledged.

Imports `link`, `supervision` and what is below them.
"""
