"""The checks before learning, one module each; `run_checks` has their table and runs them."""
