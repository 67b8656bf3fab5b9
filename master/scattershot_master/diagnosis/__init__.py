"""Owns what is wrong with a training and with a study: functions of what was recorded."""
