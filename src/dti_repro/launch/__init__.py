"""Commands, sweeps and processes."""
