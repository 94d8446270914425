"""Where everything lies, and the image that results."""
