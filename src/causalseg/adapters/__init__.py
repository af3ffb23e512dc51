"""Adapters: what trains beside a frozen backbone."""
