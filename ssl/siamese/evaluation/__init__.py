"""What the features of a checkpoint are worth: `evaluator` carries out the protocols of `protocols`."""
