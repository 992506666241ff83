"""Who may do what: API keys, join tokens, the operator's token, and the revocation list.

Imports `storage` and `engine`.
"""
