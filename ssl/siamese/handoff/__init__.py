"""From a trained network to other tools: features in files, exported weights, reports."""
