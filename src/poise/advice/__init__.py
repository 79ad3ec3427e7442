"""What is said to somebody whose run does not go as it should."""
