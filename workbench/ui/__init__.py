"""Panels, exports and comparisons. Knows Config, Event, Result, System, Run and Record, and nothing of any system."""
