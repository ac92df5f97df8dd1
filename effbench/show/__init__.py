"""Tables, plots and progress for a person. Units are formatted here and nowhere else."""
