"""What each command does with its config; `siamese.cli` composes it."""
