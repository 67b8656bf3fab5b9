"""The store of a study's checkpoints: names, headers, backends, and which of them are kept."""
