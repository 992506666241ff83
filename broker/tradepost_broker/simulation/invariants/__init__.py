"""What must hold after each event, told from the market's answers alone.

The checks keep their own books, so that a defect of the core cannot hide itself. Imports `world`.
"""
