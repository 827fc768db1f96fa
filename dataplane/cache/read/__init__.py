"""Which bytes of an object go where: scatter lists and zero-copy views."""
