"""Continual."""
