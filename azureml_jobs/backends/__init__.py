"""Where a federation's jobs run: processes of this machine, or Azure ML."""
