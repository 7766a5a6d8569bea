"""Feedforward."""
