"""`tradepost demo`: a complete market on this machine, one cheater included, and a report."""
