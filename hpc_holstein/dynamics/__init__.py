"""Time stepping: Langevin schemes as one-step functions."""
