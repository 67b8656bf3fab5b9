"""The supervisor process: takes jobs, renews leases, watches one child. Never imports torch."""
