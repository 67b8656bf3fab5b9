"""What a user's task is, and what its outputs and targets mean."""
