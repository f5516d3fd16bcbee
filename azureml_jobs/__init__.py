"""The command line, and jobs, keys, data and provisioning on Azure ML."""
