"""Jobs on a cluster: SLURM, signs of life, failed jobs, warm processes, doctor and status."""
