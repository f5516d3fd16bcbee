"""Tasks, models and strategies from outside this tree: found, counted, checked, imported.

A *target* says where a class or function lies: `wine.py:Wine`, `folder:Wine` or
`package.module.Wine`. Only whoever composes a configuration, or submits a job, writes one. What
travels is a name, a digest of the code and plain arguments (`conf.targets.known`): no message says
from where code is imported, and none carries any.

    MDW-170 nothing at that place          MDW-174 a missing argument
    MDW-171 it can't be imported           MDW-175 an argument of another type
    MDW-172 it is not of the wanted kind   MDW-176 the constructor refused its arguments
    MDW-173 an unknown argument            MDW-177 the code has changed
"""
