"""Generated documents: the results page and the picture of the README."""
