"""The embedded engine beside transformers' generate and SGLang's CPU server."""
