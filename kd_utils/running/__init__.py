"""A study -> tasks side by side, here or on a Ray cluster."""
