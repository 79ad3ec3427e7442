"""`video_recorder`."""
