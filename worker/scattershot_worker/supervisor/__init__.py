"""The supervisor process: takes jobs, keeps leases, watches one child. Never imports torch."""
