"""What the cache may take of the disk, and which blocks go when it is full."""
