"""`python -m scattershot_worker`."""

from scattershot_worker.cli import main

main()
