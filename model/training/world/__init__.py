"""The small world: scenes (`scene`), their pictures (`draw`), and what is said about them."""
