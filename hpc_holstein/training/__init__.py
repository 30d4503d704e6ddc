"""Snapshots, labelling, fitting and validation of force providers."""
