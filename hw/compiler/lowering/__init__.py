"""Nodes of a Program become tasks."""
