"""The commands of the bare install: submit a job, show jobs, verify a receipt."""
