"""The outer loop, and the only package that knows both worlds. Who waits for whom:

    problem_stream        Engine                Judge                                     update
    (Grain)               (slots)               (sandboxes)                               (one jitted function)
        |                    |                     |                                          |
        |  a wave of groups  |  each completion    |  verdict                                 |
        +------------------> +-------------------> +---------> groups ---> batch ---> queue --+--> new weights
                             ^   as it finishes                (filters)             (bounded)|        |
                             |                                                                |        |
                             +------------------- reload (exported weights) <-----------------+--------+

- A finished completion goes to the judge at once; its slot writes the next one meanwhile.
- A wave is as many groups as the batch still lacks. The next wave waits for the last verdict of this one, since that
  decides how many groups are lacking; this is what makes a seeded run repeat bit for bit.
- Batches for step s are drawn once the engine has weights at most `rollout.max_staleness` versions older than those
  that will train on them. With 0 generation waits for the update; above 0 the queue holds batches ahead of it.
- The update runs in a thread, so that verdicts and completions of later batches go on.

In: a TrainConfig. Out: a run folder.
"""
