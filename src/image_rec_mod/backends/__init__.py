"""What reads the photos."""
