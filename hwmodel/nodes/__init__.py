"""Tables that scale digital parts between technology nodes, one TOML file each."""
