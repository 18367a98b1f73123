"""One optimizer step beside TRL's and google-tunix's."""
