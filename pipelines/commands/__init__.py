"""The commands. Each checks all of its options, and only then imports heavy modules and calls one function."""
