"""`tradepost demo`: a whole market on this machine, one cheater included, and a report of what happened."""
