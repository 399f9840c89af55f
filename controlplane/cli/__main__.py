"""`python -m controlplane.cli` is `inferctl`."""

from controlplane.cli.app import main

main()
