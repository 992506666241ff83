"""What a device's owner and a market's operator allow: trust policies and revocation lists.

Imports `checks`.
"""
