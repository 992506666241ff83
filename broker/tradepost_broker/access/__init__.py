"""Who may do what: API keys, join tokens, the operator's token, and the revocation list.

Imports `engine` and the rooms below it.
"""
