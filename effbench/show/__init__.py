"""What a person sees: tables, plots and progress. Units are made readable here and nowhere else."""
