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

SLOW = frozenset(
    f"{group}-{name}"
    for group, names in {
        "time": """loop_that_catches_everything signals_handled regex_with_back_references regex_alternatives
            power_of_powers text_to_integer long_division membership_in_c sort_with_a_slow_key hash_collisions
            decimal_digits generator_without_end endless_in_an_exception sleep_in_slices select_without_end
            pause waits_for_a_signal deadlock empty_queue pipe_that_nobody_reads endless_in_del clock_of_the_kernel""",
        "memory": "compressed_zeros a_dictionary_that_grows private_map_of_memory a_thread at_once_touched",
        "files": "shm_is_full no_inodes_left_in_shm",
        "exits": "stack_overflow endless_atexit stops_after_the_answer",
        "processes": "sessions_without_end endless_children endless_pool",
        "functions": "module_never_ends",
    }.items()
    for name in names.split()
)
"""Left to .ci/run: each has a sister that does nearly the same."""
assert CASES.keys() >= SLOW
