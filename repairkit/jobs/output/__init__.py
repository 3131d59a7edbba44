"""What a job writes and tells: files, places and progress."""
