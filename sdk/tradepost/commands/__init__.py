"""The commands of the bare install: submit a job, look at jobs, verify a receipt."""
