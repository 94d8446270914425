"""Lowering: a trained model becomes an integer Program, and its float simulation."""
