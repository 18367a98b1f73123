"""From a program to a verdict, by running it.

In: Problem, program text. Out: Verdict, or JudgeError when the judge itself failed. Must not import jax.

    judge -> verify -> checker
               |
               v          sent by bundle
            sandbox ==== local, docker/ ==================> inside/: runner -> candidate, one process a test
                         connection <----- protocol ------>
"""
