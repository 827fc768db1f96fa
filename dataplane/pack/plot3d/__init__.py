"""PLOT3D grids, solutions and functions."""
