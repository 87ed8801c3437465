"""Deployments: agents that start by themselves. Imports nothing of api, app or jobs."""
