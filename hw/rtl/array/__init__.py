"""The systolic array and what feeds and empties it."""
