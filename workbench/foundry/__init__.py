"""Foundry."""
