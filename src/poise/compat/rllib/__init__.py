"""RLlib's classes and functions, over Poise; `poise.compat.names` says under which names."""
