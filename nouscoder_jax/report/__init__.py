"""Runs as a page to look at: curves, what became of every rollout, and the rollouts themselves.

In: run folders, also of runs that go on. Out: one HTML file that needs nothing else, or the same page over HTTP.

    run folders --read--> metrics, lines of rollouts --charts--> curves
                                   |                --pack----> columns, texts in compressed chunks
                                   +--> report.html (page), or http://127.0.0.1 (serve)
"""
