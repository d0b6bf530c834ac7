"""Agents as plans: typed steps in data-flow order, their runs, and plans that a model writes."""
