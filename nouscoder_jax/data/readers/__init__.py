"""Public sets of problems, a module a set: a record as it was published becomes one of our format.

In: a record of a set (a JSON object, a row, a Kattis package). Out: an object of the fields of data/problems.py, or
ValueError (the record is broken) or LeftOutError (it is whole and of no use here). formats.py names
them for scripts/prepare_data.py.
"""
