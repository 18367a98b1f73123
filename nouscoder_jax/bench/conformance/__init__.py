"""Our objectives beside six libraries' own functions."""
