"""Prediction: windows over whole cases, back to the grid of the file."""
