"""What process 0 does for all others."""

import numpy as np
import pytest
from small import change

from nouscoder_jax.experience.packing import one_a_row
from nouscoder_jax.planning import costs, head


@pytest.fixture
def workload(dapo):
    return costs.make_workload(dapo, completion_tokens=15360, kept_groups=0.5)


def of(config, workload, **changed):
    values = dict(train_gpus=48, rows_per_micro_batch=48, step_s=500.0)
    return head.head_cost(config, workload, **values | changed)


def test_a_position_is_as_many_bytes_as_its_arrays_have():
    batch, _ = one_a_row([[1, 2]], row_tokens=4, rows_per_micro_batch=1)
    assert sum(array.nbytes for array in batch) == 4 * head.BATCH_BYTES_PER_TOKEN
    assert np.dtype(np.float32).itemsize == head.OLD_LOGPROBS_BYTES


def test_every_other_process_gets_every_row_once_and_twice_where_logprobs_are_recomputed(dapo, workload):
    config = change(dapo, loss={"old_logprobs": "behavior", "correction": "none", "max_ratio": 0.0})
    rows = workload.updates * workload.micro_batches(48) * 48
    found = of(config, workload)
    assert found.processes == 6 and found.order_bytes == 5 * rows * workload.row_tokens * 26
    assert found.order_s == found.order_bytes / head.ORDER_BYTES_PER_S
    again = change(config, loss={"old_logprobs": "recomputed"})
    assert of(again, workload).order_bytes == found.order_bytes * (26 + 26 + 4) / 26
    assert of(config, workload, train_gpus=8, rows_per_micro_batch=8).order_bytes == 0


def test_engines_answer_with_every_token_that_is_generated(dapo, workload):
    tokens = workload.generated_sequences * workload.completion_tokens
    assert of(dapo, workload, step_s=100.0).json_bytes_per_s == tokens * head.JSON_BYTES_PER_TOKEN / 100
