"""What each command does with its config; `siamese.cli` composes it. `usage`, `words` and `completion` are of all."""
