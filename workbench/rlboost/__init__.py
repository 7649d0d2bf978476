"""RLBoost: rollouts of reinforcement learning on machines that vanish (NSDI 2026, arXiv 2510.19225).

seeding.py   how long the trainer rolls out itself, how many instances are worth having
balance.py   which instance a request goes to, and when it moves
market.py    which instances to take, by price, zone and how long they last
ledger.py    every token of every request exactly once
traces.py    who comes and goes: files of four kinds, and a generator
prices.py    dated prices
rates.py, engines.py, sim.py, setting.py   the simulator; claims.py   the paper's numbers beside it

The policies hold no clock, no threads and no engine: time and what was seen are arguments. Nothing here runs by itself
yet.
"""
