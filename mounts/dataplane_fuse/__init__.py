"""The FUSE mount: filesystem logic, kernel front ends and the mount command."""
