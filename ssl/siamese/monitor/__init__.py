"""What is watched while training: `health` (pure functions), `probes` (kNN and a linear head), `progress`."""
