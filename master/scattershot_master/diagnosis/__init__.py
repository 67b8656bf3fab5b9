"""Diagnosis of a training and of a study: rules, which are functions over what was recorded."""
