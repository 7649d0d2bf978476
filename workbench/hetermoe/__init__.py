"""HeterMoE: a mixture of experts trained over unequal devices (arXiv 2504.03871)."""
