"""What makes it fast: the one decorator, the matrix products. Not needed to understand DDPG."""
