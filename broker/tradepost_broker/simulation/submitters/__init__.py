"""How submitters behave: one class for each model, honest or hostile. Imports `world` and `workers`."""
