"""GPU kernels in Pallas, each beside a plain-jnp reference of the same signature. Imports only jax."""
