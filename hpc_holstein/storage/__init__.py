"""Trajectories on the disk: segments that never change, an index over them, and how they are read."""
