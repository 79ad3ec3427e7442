"""Ray Tune's classes and functions, over `poise.tune`; `poise.compat.names` says under which."""
