"""What is written down, in SQLite or PostgreSQL."""
