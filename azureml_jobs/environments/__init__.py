"""The images of a federation's jobs, and what is known of the base that each stands on."""
