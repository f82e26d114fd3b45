"""LightningModules: the only place where data, network and loss meet.

Tasks share functions, not ancestors: a task reads from top to bottom without looking into a base class.
"""
