"""Azure's logger of runs, whose reinforcement-learning service was retired: `core`."""
