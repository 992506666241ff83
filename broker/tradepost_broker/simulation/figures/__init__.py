"""What a run amounts to: for submitters, for each model of behaviour, and in a table. Imports `world`."""
