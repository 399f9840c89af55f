"""Pictures on their way in and out: what callers send or name, and the files of results. Decides nothing else."""
