"""The dataplane command: one file per subcommand."""
