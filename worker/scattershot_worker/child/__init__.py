"""The warm child process: torch stays loaded, trials come and go."""
