"""Prediction of a training run before it starts: `dataplane plan`. README.md is the map."""
