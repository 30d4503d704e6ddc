"""Batch jobs: what a site wants, scripts for Slurm, their submission, and a study of several stages."""
