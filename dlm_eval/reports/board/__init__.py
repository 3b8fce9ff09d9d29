"""Tables of many runs: the long and the wide leaderboard, and boards declared in YAML."""
