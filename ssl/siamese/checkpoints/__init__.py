"""Reading checkpoint files safely: our own (`reading`) and third-party ones (`formats`)."""
