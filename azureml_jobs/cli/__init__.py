"""The command line: one module a kind of verb."""

from azureml_jobs.shadowed import stop_if_shadowed

# First of all: with another's `conf` or `server` in the way nothing below would be what it is.
stop_if_shadowed()
