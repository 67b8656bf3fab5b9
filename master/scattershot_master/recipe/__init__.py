"""The recipe: six steps from an untried task to a study file and a page about it."""
