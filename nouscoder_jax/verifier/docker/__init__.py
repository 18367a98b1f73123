"""The sandbox of Docker containers, on one Docker host or on several.

In: programs and inputs. Out: Executions.
"""
