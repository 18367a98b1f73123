"""The loop's own pipeline on a virtual clock."""
