"""Weights converted and exported, beside cp of the same bytes."""
