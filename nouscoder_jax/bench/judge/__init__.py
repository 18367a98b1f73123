"""The judge beside unsafe ways to run programs."""
