"""What lopt leaves on disk: exported files, run folders, snapshots of a run's state."""
