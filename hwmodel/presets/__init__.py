"""Accelerators as data: one TOML file each, read by `hwmodel.components.load_preset`."""
