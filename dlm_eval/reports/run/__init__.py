"""What `dlm-eval --model` prints: the plan of a dry run, and the report of a finished run."""
