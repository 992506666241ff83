"""Which worker gets a lease, at what price: eligible offers, the auction, the grant, and failures.

Imports `settling` and what is below it, since a job that finds nobody ends here.
"""
