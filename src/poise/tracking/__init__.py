"""What a run leaves on disk, and how it is shown while it runs."""
