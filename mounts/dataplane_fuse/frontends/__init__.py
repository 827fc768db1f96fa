"""Front ends: they turn a kernel's requests into calls of `dataplane_fuse.filesystem`."""
