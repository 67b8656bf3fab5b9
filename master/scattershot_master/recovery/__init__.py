"""Owns a ledger's second life: what is still known of a study, and the events that say it anew."""
