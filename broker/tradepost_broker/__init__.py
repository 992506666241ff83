"""The broker: a pure market core, and the shell that gives it a clock, a database and the network."""
