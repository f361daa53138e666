"""Images -> a trained model and its metrics."""
