"""The built-in tasks; entry points in pyproject.toml give their names."""
