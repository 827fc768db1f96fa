"""VTK files: checked, read in a process apart, and confirmed."""
