"""Searching growth schedules: what grows, when, how much, by which method."""
