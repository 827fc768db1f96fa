"""VTK files: checked, read in a subprocess, and confirmed."""
