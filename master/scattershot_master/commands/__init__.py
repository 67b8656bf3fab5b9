"""The subcommands of `scattershot`, one file each or a few that belong together."""
