"""What the commands of flows/ are made of."""
