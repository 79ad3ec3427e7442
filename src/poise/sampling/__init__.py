"""Samplers: a copy of the policy and a batch of environments, from which rollouts come."""
