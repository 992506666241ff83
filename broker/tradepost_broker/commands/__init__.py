"""The commands that read the broker's database themselves, and what all commands share.

Imports `operator`, `storage`, `settings` and the market's entities. The database loads only in the commands
that need it: the others just ask the running broker, and should answer at once.
"""
