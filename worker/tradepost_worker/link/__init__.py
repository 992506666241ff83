"""The connection to the broker: joining, the REST client, the stream, and the rate of transfers.

Imports `state`, `settings` and what is below them.
"""
