"""Models of other tools become Programs."""
