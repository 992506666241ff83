"""How workers behave: one class for each model, honest or hostile. Imports `world`."""
