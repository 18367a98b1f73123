"""The libraries' answers: each module runs in a process of its own, in the libraries' environment."""
