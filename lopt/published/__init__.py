"""Weights that other projects have published: their formats, their names, our theta."""
