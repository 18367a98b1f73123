"""The outer loop, and the only package that knows both worlds. Who waits for whom:

    Drawer        Engine             Judge              collector           turns.Turns                 Checkpointer
    (Grain)       (slots)            (sandboxes)        (bounded)           (one jitted update)         (background)
       |             |                   |                  |                    |                           |
       |  a group    |  a completion,    |  its verdict     |  the oldest        |  state                    |
       +-----------> +--- as it ends --> +----------------> +--- finished ------>+------------------------> |
       ^             ^                                      |    groups: batch   |                           |
       |             |                                      |                    |
       +-- has room -+-------------- free slots ------------+<-- a step is ------+
                     ^                                           trained         |
                     +-- reload: exported weights, policy_version ---------------+

- A finished completion goes to the judge at once; its slot writes the next one meanwhile. Generation waits for no
  verdict, judging for no update, and the update runs in a thread beside both.
- On-policy (`rollout.max_staleness` 0): a batch is drawn in waves, each as many groups as it still
  lacks, once the engine has the weights that will train on it. A seeded run repeats bit for bit.
- Ahead: a group starts whenever a slot is free, unless it could come too late for the batches that may still train on
  it. That bound is also the bound of all queues. The trainer takes the groups that were started first, and waits for
  one only where it would become too old otherwise; nothing is thrown away for its age.
- Completions under way when weights come end first, stop and go on, or just go on (`rollout.on_new_weights`); each
  token keeps the version that sampled it.
- A finished group goes to the journal before the collector has it, a batch before it is trained on (`journal.py`).
  After a kill `replay.py` hands out the batches of the journal again, and groups in it are not generated again.
- What is written when is `turns.py`: the host's side, the same code under a simulated clock; `learner.py` is the side
  that has weights. `run.py` is the list of a run's stages, each a module.
- The update, checkpoints and exports are orders to a `Trainer` (training/trainer.py). With several processes this one
  is the head, which alone runs what is drawn here, and the orders go to the hands of all (training/hands.py).
- The engine's servers may die and come back (rollout/), so may the judge's (verifier/); the loop only sees calls that
  take longer, or, after a configured time, one error: then the finished steps are in a checkpoint.

In: a TrainConfig. Out: a run folder.
"""
