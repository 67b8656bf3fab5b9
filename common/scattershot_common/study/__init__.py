"""A study's settings and the file they are read from."""
