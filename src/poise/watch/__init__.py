"""What a run says of itself, for those who read its folder."""
