"""lopt: meta-train, evaluate and export small learned optimizers."""
