"""Plato: plan a query into a graph, decode its nodes in parallel (arXiv 2402.12280)."""
