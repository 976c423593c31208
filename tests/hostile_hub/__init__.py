"""A package, so that the federation of its conftest ends with its last test and not with the session."""
