"""Which worker gets a lease, at what price: eligible offers, the auction, the grant, the reasons of a failure.

Imports `settling` and what is below it, since a job that finds nobody ends here.
"""
