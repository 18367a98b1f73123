"""The catalogue of hostile and wrong programs, by what they attack.

In: the parts. Out: GROUPS (name of a group -> cases) and CASES (`group-name` -> case). Hostile does not mean rejected:
a program that attacks the runner and prints the right answer is accepted, since nothing came of it.
"""

import hostile_bombs
import hostile_breaking
import hostile_faking
import hostile_reading
import hostile_values

GROUPS = {
    "reading": hostile_reading.READING,
    "patching": hostile_reading.PATCHING,
    "verdicts": hostile_faking.VERDICTS,
    "equality": hostile_faking.EQUALITY,
    "exits": hostile_faking.EXITS,
    "runner": hostile_breaking.RUNNER,
    "daemons": hostile_breaking.DAEMONS,
    "state": hostile_breaking.STATE,
    "files": hostile_breaking.FILES,
    "sockets": hostile_breaking.SOCKETS,
    "processes": hostile_bombs.PROCESSES,
    "memory": hostile_bombs.MEMORY,
    "output": hostile_bombs.OUTPUT,
    "time": hostile_bombs.TIME,
    "outputs": hostile_values.OUTPUTS,
    "functions": hostile_values.FUNCTIONS,
}
CASES = {f"{group}-{case.name}": case for group, cases in GROUPS.items() for case in cases}
assert len(CASES) == sum(map(len, GROUPS.values())), "two cases of one name"
