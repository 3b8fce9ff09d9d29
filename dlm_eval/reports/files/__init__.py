"""What a run left on disk, read as data: result files, samples files and baselines."""
