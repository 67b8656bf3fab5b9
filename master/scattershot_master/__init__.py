"""The master wing: samples, ranks, kills, stages, ensembles, shows. Never imports torch."""
