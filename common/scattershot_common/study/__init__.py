"""The settings of a study, and the study file that they are read from."""
