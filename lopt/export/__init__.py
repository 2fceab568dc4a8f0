"""Learned optimizers in other forms than the exported file, one a module."""
