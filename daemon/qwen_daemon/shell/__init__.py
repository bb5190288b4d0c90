"""Floor 3, one module per outside thing; its import appears nowhere else."""
