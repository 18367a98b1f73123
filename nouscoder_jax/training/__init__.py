"""From a batch to the next policy.

In: TrainState and Batch. Out: TrainState, metrics, checkpoints, exported weights. No network, no subprocess.
"""
