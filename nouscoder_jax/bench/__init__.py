"""Benchmarks, each behind a subcommand of scripts/bench.py: `add_options` declares its options, `run` does it."""
