"""Tasks on real data, generators, and the user's own files."""
