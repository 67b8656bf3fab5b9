"""The face of scattershot: what a user's own code imports. Never imports torch."""
